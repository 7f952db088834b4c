"""A process of a run on several machines is two: the keeper, which the user started, and the worker, which computes.

The worker can hang or die in ways that no handler of its own sees: a collective waits for ever for a peer that is gone, and
JAX aborts the process when its coordinator is. So the keeper, which loads no JAX and computes nothing, watches its worker and
the other keepers, and ends all of it within a bounded time, with one line that says why and how to go on.

The keeper of process 0 is the hub that the others are connected to. What they say is JSON, a line each.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from l2lcli.commands.json_lines import Line
from l2lcli.runs.files import RunError
from l2lcli.runs.status import read_status, write_status
from l2lcli.signals import EXIT

BEAT = 1.0  # seconds between signs of life
GRACE = 3.0  # seconds that a worker has to end by itself, and that a cause has to come after what it brought about
BEHIND = 10  # times the timeout that a process may stay away from where the others wait


class Cause(NamedTuple):
    """Why a run ends."""

    text: str
    code: int
    primary: bool = True  # False: it may be what another process's end brought about


class Keeper:
    """Watches one worker and its peers until all is over. `run` returns the exit code.

    Args:
      worker: process id.
      link: the socket to the worker.
      timeout: seconds without a sign of life after which a process counts as lost.
      starting: seconds within which all of them have to be there.
      log: what the worker's libraries print goes there.
    """

    def __init__(self, worker: int, link: socket.socket, timeout: float, starting: float, log: Path) -> None:
        """Signals are taken over from here on."""
        self.worker, self.link, self.timeout, self.log = worker, Line(link), timeout, log
        self.starting, self.began = starting, time.monotonic()
        self.selector = selectors.DefaultSelector()
        self.selector.register(link, selectors.EVENT_READ, self.link)
        self.listener = socket.create_server(("", 0), family=socket.AF_INET)
        self.index, self.count, self.token = 0, 1, ""
        self.joined = self.connected = None  # when the worker came so far
        self.hub: Line | None = None  # None in process 0
        self.peers: list[Line] = []
        self.folder: Path | None = None
        self.status: int | None = None  # of the worker that has ended, as waitpid says it
        self.said: dict[str, Any] | None = None  # the worker's own last words
        self.cause: Cause | None = None
        self.known = 0.0  # since when
        self.over: dict[str, Any] | None = None  # what the hub has said of the end
        self.asked = 0
        self.without_hub = False  # it is gone, or silent
        for number in EXIT:
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: Any) -> None:
        self.asked += 1
        if self.asked > 1:
            self._kill()
            os._exit(EXIT[signal.Signals(number)])
        self.link.send(stop=int(number))

    def run(self) -> int:
        """Watch until the end; the exit code."""
        self.link.send(hub=self.listener.getsockname()[1])
        beaten = 0.0
        while True:
            for key, _ in self.selector.select(0.2):
                self._take(key.data)
            now = time.monotonic()
            if now - beaten >= BEAT:
                beaten = now
                self.link.send(beat=0)
                if self.hub is not None:
                    self.hub.send(beat=self.link.entered)
                for peer in self.peers:
                    peer.send(beat=0)
            if self.status is None:
                ended, status = os.waitpid(self.worker, os.WNOHANG)
                self.status = status if ended else None
            if (code := self._judge(now)) is not None:
                return code

    def _take(self, line: Line | None) -> None:
        """What a connection has to say; None is the listener."""
        if line is None:
            peer = Line(self.listener.accept()[0])
            self.peers.append(peer)
            self.selector.register(peer.socket, selectors.EVENT_READ, peer)
            return
        for message in line.read():
            self._hear(line, message)
        if line.closed:
            self.selector.unregister(line.socket)

    def _hear(self, line: Line, message: dict[str, Any]) -> None:
        if (entered := message.get("beat", 0)) > line.entered:
            line.entered, line.since = entered, time.monotonic()
        if line is self.link:
            if "connected" in message:
                self.connected = time.monotonic()
            elif "joined" in message:
                self._join(*message["joined"])
            elif "folder" in message:
                self.folder = Path(message["folder"])
            elif "ended" in message:
                self.said = message
        elif line is not self.hub and line.process is None:  # whoever connects has to say who it is
            if message.get("token") == self.token:
                line.process = message["process"]
        elif "done" in message:
            line.done = True
        elif "lost" in message:
            line.done = True
            self._blame(Cause(message["lost"], message["code"], message["primary"]))
        elif "over" in message:
            self.over = message

    def _join(self, index: int, count: int, host: str, port: int, token: str) -> None:
        self.index, self.count, self.token, self.joined = index, count, token, time.monotonic()
        if index == 0:
            self.selector.register(self.listener, selectors.EVENT_READ, None)
            return
        try:
            connection = socket.create_connection((host, port), timeout=self.timeout)
        except OSError as error:
            return self._lose(f"process {index} of {count} cannot reach process 0 at {host}:{port}: {error}")
        connection.settimeout(None)
        self.hub = Line(connection)
        self.selector.register(connection, selectors.EVENT_READ, self.hub)
        self.hub.send(process=index, token=token)

    def _blame(self, cause: Cause) -> None:
        """The first cause counts, but one that another may have brought about gives way to it."""
        if self.cause is None or (cause.primary and not self.cause.primary):
            self.known = self.known or time.monotonic()
            self.cause = cause

    def _name(self, process: int) -> str:
        return f"process {process} of {self.count}"

    def _lose(self, text: str, primary: bool = True) -> None:
        """A process is lost: not by what it says of itself."""
        hint = f"; go on with: l2l train --resume {self.folder}" if self.folder is not None else ""
        self._blame(Cause(text + hint, 1, primary))

    def _judge(self, now: float) -> int | None:
        """The exit code, if all is over; None to go on."""
        if self.over is not None and self.hub is not None:  # the hub has judged
            return self._end(self.over["over"], self.over["code"], kill=bool(self.over["over"]))
        self._look(now)
        if self.cause is not None:
            if not self.cause.primary and now - self.known < GRACE:
                return None
            if self.hub is not None and not self.without_hub and now - self.known < GRACE + self.timeout:
                if not self.link.done:
                    self.link.done = True
                    self.hub.send(lost=self.cause.text, code=self.cause.code, primary=self.cause.primary)
                return None  # the hub will say what it comes to
            text = self.cause.text
            for peer in self.peers:
                peer.send(over=text, code=self.cause.code)
            return self._end(text, self.cause.code, kill=True)
        if self.status is not None and self.said is not None:  # as agreed, or before it had company
            if self.hub is not None:
                self.hub.send(done=0)
                return self._end("", self.said["code"], kill=False)
            for peer in self.peers:
                peer.send(over="", code=self.said["code"])
            return self._end("", self.said["code"], kill=False)
        return None

    def _look(self, now: float) -> None:
        """Find out whether somebody is lost."""
        if self.status is not None and (self.said is None or not self.said["agreed"]):
            self._own_end(self.status)
        elif self.status is None and now - self.link.heard > self.timeout:
            self._kill()
            self._lose(f"{self._name(self.index)} has not answered for {self.timeout:.0f} s")
        if not self.connected and self.status is None and now - self.began > self.starting:
            self._lose(f"not all processes have come within {self.starting:.0f} s")
        if self.connected and not self.joined and now - self.connected > self.timeout and self.status is None:
            self._lose(f"the other processes have not answered for {self.timeout:.0f} s")
        if self.hub is not None and self.over is None:
            self.without_hub = self._lost(self.hub, 0, now)
        for peer in self.peers:
            if peer.process is not None and not peer.done:
                self._lost(peer, peer.process, now)
        if self.hub is None and self.count > 1:
            places = {self.index: self.link} | {peer.process: peer for peer in self.peers if peer.process is not None}
            ahead = max(places.values(), key=lambda line: line.entered)
            for process, line in places.items():
                if line.entered < ahead.entered and now - ahead.since > BEHIND * self.timeout:
                    self._lose(f"{self._name(process)} hangs: for {now - ahead.since:.0f} s the others have waited")

    def _lost(self, line: Line, process: int, now: float) -> bool:
        """Whether a keeper is gone or silent, and to blame."""
        silent = now - line.heard > self.timeout
        if line.closed or silent:
            how = "is gone: its connection closed" if line.closed else f"has not answered for {self.timeout:.0f} s"
            self._lose(f"{self._name(process)} {how}")
        return line.closed or silent

    def _own_end(self, status: int) -> None:
        """Say how the worker ended, if not together with the others."""
        if self.said is not None:
            text = "\n".join(self.said["lines"])
            told = text if self.count == 1 else f"{text} ({self._name(self.index)})"
            return self._blame(Cause(told, self.said["code"], self.said["primary"]))
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return self._lose(f"{self._name(self.index)} ended with exit code {code} without a word; see {self.log}", False)
        name = signal.Signals(-code).name
        aborted = -code == signal.SIGABRT  # JAX does so where its coordinator is gone
        where = f"; see {self.log}" if aborted else ""
        return self._lose(f"{self._name(self.index)} was killed by {name}{where}", not aborted)

    def _end(self, text: str, code: int, kill: bool) -> int:
        """Let the worker end, or see to it; say why."""
        until = time.monotonic() + (GRACE if kill else self.timeout)
        while self.status is None and time.monotonic() < until:
            ended, status = os.waitpid(self.worker, os.WNOHANG)
            self.status = status if ended else None
            time.sleep(0.05)
        self._kill()
        if text:
            print(text if text.startswith("l2l: ") or code == 2 else f"l2l: {text}", file=sys.stderr, flush=True)
            if self.index == 0 and self.folder is not None:
                with suppress(RunError, OSError):
                    held = read_status(self.folder)
                    if held["state"] in ("starting", "running", "failed"):  # the worker may have said what came of it
                        state = "stopped" if code in EXIT.values() else "failed"
                        write_status(self.folder, state, None, text, train_seconds=held.get("train_seconds", 0.0))
        if str(self.log) not in text:
            with suppress(OSError):
                self.log.unlink()
        return code

    def _kill(self) -> None:
        if self.status is None:
            with suppress(OSError):
                os.kill(self.worker, signal.SIGKILL)
            for _ in range(40):  # it may be one that waits for a disk, which nothing ends
                with suppress(OSError):
                    ended, status = os.waitpid(self.worker, os.WNOHANG)
                    if ended:
                        self.status = status
                        return
                time.sleep(0.05)
