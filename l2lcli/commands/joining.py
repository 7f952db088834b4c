"""How a process joins the others of its run, `jax.distributed`, and what its worker and its keeper tell each other."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from l2lcli import processes
from l2lcli.commands import backend
from l2lcli.commands.keeper import BEAT, Keeper
from l2lcli.config import ConfigError
from l2lcli.runs.files import RunError, one_line
from l2lcli.signals import Signals

STARTING = 300  # seconds that the processes of a run may start apart
FOR_EVER = 10**7  # seconds: JAX's own way to end a run whose processes do not answer is to abort, so it never comes to that
GPUS_PER_TASK = (
    "Slurm's --gpus-per-task=1 hides the other GPUs of a node from each task, and they cannot exchange what they compute: "
    "ask for one task per node with all of its GPUs (--ntasks-per-node=1 --gpus-per-node=8)"
)


class Group(NamedTuple):
    """The processes that a command is told to join.

    Attributes:
      coordinator: host:port of process 0; None where JAX is to find it, and the others, itself.
      processes: how many.
      number: which one this is.
      devices: how many devices there are to be in all; None for all there are.
      timeout: seconds without a sign of life after which a process counts as lost.
    """

    coordinator: str | None
    processes: int | None
    number: int | None
    devices: int | None
    timeout: float


def group(
    coordinator: str | None, number: int | None, index: int | None, detect: bool, devices: int | None, timeout: float
) -> Group | None:
    """What the options of a command say; None for one process. Raises ConfigError."""
    given = {"--coordinator": coordinator, "--num-processes": number, "--process-id": index}
    if all(value is None for value in given.values()) and not detect:
        return None
    if detect and (named := [name for name, value in given.items() if value is not None]):
        raise ConfigError([f"--distributed finds out what {' and '.join(named)} would say: leave it out"])
    if not detect and (missing := [name for name, value in given.items() if value is None]):
        raise ConfigError([f"several processes: {' and '.join(missing)} missing (or --distributed, on a cluster)"])
    if not detect:
        assert coordinator is not None
        assert number is not None
        assert index is not None
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ConfigError([f"--coordinator {coordinator!r}: expected host:port, such as node001:1234"])
        if not 0 <= index < number:
            raise ConfigError([f"--process-id {index}: the {number} processes are 0 to {number - 1}"])
        if number == 1:
            return None
        if devices is not None and devices % number:
            raise ConfigError([f"--devices {devices}: the same number for each of {number} processes"])
    if not hasattr(os, "fork"):
        raise ConfigError(["several processes need a system that can fork, such as Linux"])
    if detect:
        refuse(os.environ)
    return Group(coordinator, number, index, devices, timeout)


def refuse(environment: Mapping[str, str]) -> None:
    """Raises ConfigError for a way of starting under which the devices of a node cannot work together."""
    if environment.get("SLURM_GPUS_PER_TASK") == "1" and environment.get("SLURM_NTASKS", "1") != "1":
        raise ConfigError([GPUS_PER_TASK])


class Link:
    """The worker's end of the connection to its keeper."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        """Two threads: one tells that this process lives, one hears the keeper."""
        self._socket, self._timeout, self._lock = connection, timeout, threading.Lock()
        self._heard = time.monotonic()
        self._entered = 0
        self._stopped: int | None = None
        self._flag: Signals | None = None
        self.hub_port = 0
        self._greeted = threading.Event()
        for act in (self._beat, self._hear):
            threading.Thread(target=act, daemon=True).start()
        self._greeted.wait(timeout)

    def tell(self, **message: Any) -> None:
        """Say something to the keeper."""
        with self._lock, suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def listen(self, flag: Signals) -> None:
        """Signals that the keeper gets are raised in `flag` from here on."""
        self._flag = flag
        if self._stopped is not None:
            flag.receive(self._stopped)

    def enter(self) -> None:
        """This process has come to where all have to come."""
        self._entered += 1

    def _beat(self) -> None:
        while True:
            self.tell(beat=self._entered)
            if time.monotonic() - self._heard > 2 * self._timeout:  # the keeper is stopped
                os._exit(1)
            time.sleep(BEAT)

    def _hear(self) -> None:
        with self._socket.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                self._heard, message = time.monotonic(), json.loads(line)
                if "hub" in message:
                    self.hub_port = message["hub"]
                    self._greeted.set()
                elif "stop" in message:
                    self._stopped = message["stop"]
                    if self._flag is not None:
                        self._flag.receive(message["stop"])
        os._exit(1)  # the keeper is gone


_link: Link | None = None  # in a worker


def join(group: Group | None) -> None:
    """Become one of several processes. Returns in the worker alone; the process that called it ends with its exit code.

    To be called before anything else of the command: no thread runs yet, and JAX is not loaded.
    """
    if group is None:
        return
    ours, theirs = socket.socketpair()
    descriptor, log = tempfile.mkstemp(prefix="l2l-", suffix=".log")
    sys.stdout.flush()
    sys.stderr.flush()
    worker = os.fork()
    if worker:
        theirs.close()
        os.close(descriptor)
        os._exit(Keeper(worker, ours, group.timeout, STARTING, Path(log)).run())
    ours.close()
    os.setsid()  # the terminal's signals come through the keeper
    _print_past(descriptor)
    global _link
    _link = Link(theirs, group.timeout)
    _initialize(group, _link)


def _print_past(descriptor: int) -> None:
    """What Python prints goes where it went; what libraries print past it goes to that file."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        setattr(sys, name, os.fdopen(os.dup(number), "w", buffering=1, encoding=stream.encoding, errors=stream.errors))
        os.dup2(descriptor, number)


def _initialize(group: Group, link: Link) -> None:
    import jax

    each = backend.cores() if group.devices is None or group.processes is None else group.devices // group.processes
    jax.config.update("jax_num_cpu_devices", each)
    try:
        jax.distributed.initialize(
            group.coordinator,
            group.processes,
            group.number,
            local_device_ids=_all_of_node(os.environ),
            cluster_detection_method=None if group.coordinator is None else "deactivate",
            initialization_timeout=2 * STARTING,  # the keeper's comes before: JAX would abort
            heartbeat_timeout_seconds=FOR_EVER,
            shutdown_timeout_seconds=FOR_EVER,
        )
    except ValueError as error:  # nothing was detected
        raise ConfigError(
            [f"--distributed: no cluster found ({one_line(error)}): --coordinator, --num-processes, --process-id"]
        ) from None
    except RuntimeError as error:
        raise RunError(f"the processes did not come together within {STARTING} s: {one_line(error)}") from None
    link.tell(connected=True)
    own = _address(group.coordinator), link.hub_port, secrets.token_hex(16)
    link.tell(joined=[processes.index(), processes.count(), *processes.shared(lambda: own)])
    processes.note_by(link.enter)
    if group.devices is not None and group.devices % processes.count():
        raise ConfigError([f"--devices {group.devices}: the same number for each of {processes.count()} processes"])


def _all_of_node(environment: Mapping[str, str]) -> list[int] | None:
    """Which devices a process takes: where it is alone on its node all of them, else, None, what JAX gives it."""
    several = environment.get("SLURM_STEP_TASKS_PER_NODE", "1").partition("(")[0] != "1"
    several |= environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1") != "1"
    return None if several else []


def _address(coordinator: str | None) -> str:
    """Where the others reach this process, if it is process 0."""
    return socket.gethostname() if coordinator is None else coordinator.rpartition(":")[0].strip("[]")


def as_before(devices: int | None) -> int | None:
    """As many devices as a run began with, where so many processes can have equal numbers of them; None to choose."""
    import jax

    if devices is None or processes.count() == 1:
        return devices
    return None if devices % processes.count() or devices > jax.device_count() else devices


def listen(flag: Signals) -> None:
    """In a worker, the keeper's signals are raised in `flag`."""
    if _link is not None:
        _link.listen(flag)


def at_work_in(folder: Path) -> None:
    """Tell the keeper which run directory this is about."""
    if _link is not None:
        _link.tell(folder=str(folder))


def over(code: int, lines: list[str], error: BaseException | None) -> bool:
    """End a worker as its command ended, and do not return; in another process do nothing.

    How all processes end together, one says; how one ends alone is said by the keepers.
    """
    if _link is None:
        return False
    sys.stdout.flush()
    agreed = (error is None and code == 0) or bool(getattr(error, "together", False))
    if agreed:
        if processes.first():
            for line in lines:
                print(line, file=sys.stderr)
        with suppress(Exception):
            sys.modules["jax"].distributed.shutdown()  # waits for all: the first may be writing yet
    sys.stderr.flush()
    brought_about = type(error).__name__ == "JaxRuntimeError"  # a collective whose peer is gone
    _link.tell(ended=True, code=code, lines=lines, agreed=agreed, primary=not brought_about)
    time.sleep(0.1)
    os._exit(code)
