"""Keepers without JAX: workers that only sleep, end, or are killed, and what the keepers make of it."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from l2lcli.commands import joining
from l2lcli.config import ConfigError

WORKER = """
import os, sys, time
from pathlib import Path
from l2lcli import processes
from l2lcli.commands import joining, keeper

index, folder, act = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
processes.index = lambda: index
keeper.GRACE, keeper.BEHIND, keeper.BEAT, joining.BEAT = 0.4, 1, 0.1, 0.1

def initialize(group, link):
    link.tell(connected=True)
    place = folder / "port"
    if index == 0:
        (folder / "port.new").write_text(str(link.hub_port))
        (folder / "port.new").rename(place)
    while not place.exists():
        time.sleep(0.02)
    link.tell(joined=[index, 2, "127.0.0.1", int(place.read_text()), "secret"])
    link.tell(folder="runs/x")
    link.enter()

joining._initialize = initialize
joining.join(joining.Group("h:1", 2, index, None, 1.0))
(folder / f"worker-{index}").write_text(str(os.getpid()))
print("noise from a library", file=os.fdopen(2, "w", closefd=False))
exec(act)
joining.over(0, [], None)
"""
SLEEP = "time.sleep(60)"


class Pair:
    """Two keepers and their workers, at work."""

    def __init__(self, folder, first=SLEEP, second=SLEEP):
        self.began = time.monotonic()
        self.keepers = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, str(i), str(folder), act],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i, act in enumerate((first, second))
        ]
        for i in range(2):
            while not (folder / f"worker-{i}").exists() or not (folder / f"worker-{i}").read_text():
                assert time.monotonic() - self.began < 30
                time.sleep(0.02)
        self.workers = [int((folder / f"worker-{i}").read_text()) for i in range(2)]
        time.sleep(0.3)

    def end(self, *which):
        """(exit code, stderr) of each keeper that ends."""
        found = []
        for i in which or (0, 1):
            _, err = self.keepers[i].communicate(timeout=15)
            found.append((self.keepers[i].returncode, err))
        for i, keeper in enumerate(self.keepers):
            if which and i not in which:
                keeper.kill()
                keeper.communicate()
        for _ in range(300):
            if not any(self.alive(pid) for pid in self.workers):
                return found
            time.sleep(0.02)
        raise AssertionError("a worker outlives its keeper")

    @staticmethod
    def alive(pid):
        try:
            with open(f"/proc/{pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
        except OSError:
            return False


@pytest.mark.parametrize("index", [0, 1])
def test_a_killed_worker_ends_all_with_one_line(tmp_path, index):
    pair = Pair(tmp_path)
    os.kill(pair.workers[index], signal.SIGKILL)
    line = f"l2l: process {index} of 2 was killed by SIGKILL; go on with: l2l train --resume runs/x\n"
    assert pair.end() == [(1, line), (1, line)]


@pytest.mark.parametrize("index", [0, 1])
def test_a_killed_keeper_takes_its_worker_along_and_ends_the_other(tmp_path, index):
    pair = Pair(tmp_path)
    pair.keepers[index].kill()
    line = f"l2l: process {index} of 2 is gone: its connection closed; go on with: l2l train --resume runs/x\n"
    assert pair.end(1 - index) == [(1, line)]


@pytest.mark.parametrize("who", ["worker", "keeper"])
@pytest.mark.parametrize("index", [0, 1])
def test_a_stopped_process_ends_the_run_in_bounded_time(tmp_path, index, who):
    pair = Pair(tmp_path)
    os.kill(pair.workers[index] if who == "worker" else pair.keepers[index].pid, signal.SIGSTOP)
    line = f"l2l: process {index} of 2 has not answered for 1 s; go on with: l2l train --resume runs/x\n"
    ends = (0, 1) if who == "worker" else (1 - index,)
    assert pair.end(*ends) == [(1, line)] * len(ends)


def test_strangers_are_not_heard(tmp_path):
    pair = Pair(tmp_path, "time.sleep(1.5)", "time.sleep(1.5)")
    place = "127.0.0.1", int((tmp_path / "port").read_text())
    lie = b'{"process": 1, "token": "guessed"}\n{"lost": "all of it", "code": 1, "primary": true}\n'
    with socket.create_connection(place) as scanner, socket.create_connection(place) as liar:
        scanner.sendall(b"GET / HTTP/1.1\r\n\r\n[1]\n")
        liar.sendall(lie)
        assert pair.end() == [(0, ""), (0, "")]


def test_an_error_of_one_is_said_by_all_with_its_exit_code(tmp_path):
    act = "time.sleep(1); joining.over(2, ['c.yaml:1:2: wrong', 'c.yaml:3:4: wrong, too'], ValueError())"
    pair = Pair(tmp_path, second=act)
    said = "c.yaml:1:2: wrong\nc.yaml:3:4: wrong, too (process 1 of 2)\n"
    assert pair.end() == [(2, said), (2, said)]


def test_what_an_end_brought_about_gives_way_to_the_cause(tmp_path):
    """A collective's error in process 0 comes before anybody knows that process 1 was killed."""
    error = "type('JaxRuntimeError', (Exception,), {})()"
    pair = Pair(tmp_path, first=f"time.sleep(1); joining.over(1, ['l2l: Gloo failed'], {error})")
    time.sleep(0.3)
    os.kill(pair.workers[1], signal.SIGKILL)
    assert {line for _, line in pair.end()} == {
        "l2l: process 1 of 2 was killed by SIGKILL; go on with: l2l train --resume runs/x\n"
    }


def test_an_abort_names_what_was_printed(tmp_path):
    pair = Pair(tmp_path, first="time.sleep(1); os.abort()")
    (code, line), _ = pair.end()
    log = line.strip().partition("see ")[2].partition(";")[0]
    assert code == 1
    assert line.startswith("l2l: process 0 of 2 was killed by SIGABRT; see ")
    with open(log) as file:
        assert "noise from a library" in file.read()
    os.unlink(log)


def test_a_process_that_stays_away_is_found(tmp_path):
    pair = Pair(tmp_path, first="joining._link.enter(); time.sleep(60)")
    [(code, line), _] = pair.end()
    assert code == 1
    assert line.startswith("l2l: process 1 of 2 hangs: for 1 s the others have waited")


def test_signals_reach_the_worker_and_its_end_is_everybodys(tmp_path):
    act = """
from l2lcli import signals
flag = signals.Signals()
joining.listen(flag)
while flag.received is None and not (folder / "stop").exists():
    time.sleep(0.02)
(folder / "stop").touch()
stopped = signals.Stopped(signals.signal.SIGTERM, together=True)
joining.over(75, [f"l2l: {stopped}"], stopped)
"""
    pair = Pair(tmp_path, act, act)
    pair.keepers[1].send_signal(signal.SIGTERM)
    assert pair.end() == [(75, "l2l: stopped by SIGTERM\n"), (75, "")]


def test_who_waits_for_ever_for_the_others_does_not(tmp_path):
    late = WORKER.replace(
        "def initialize(group, link):", "joining.STARTING = 1\ndef initialize(group, link):\n    time.sleep(60)"
    )
    ended = subprocess.run([sys.executable, "-c", late, "0", str(tmp_path), ""], capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stderr) == (1, "l2l: not all processes have come within 1 s\n")


def test_all_ends_well(tmp_path):
    worked = "time.sleep(2)"  # as runs do: one that ended at once would be gone before a busy machine's other keeper has come
    assert Pair(tmp_path, worked, worked).end() == [(0, ""), (0, "")]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("h", 2, 0, False, None), "--coordinator 'h': expected host:port, such as node001:1234"),
        (("h:1", 2, None, False, None), "several processes: --process-id missing (or --distributed, on a cluster)"),
        (("h:1", 2, 2, False, None), "--process-id 2: the 2 processes are 0 to 1"),
        (("h:1", 2, 0, False, 3), "--devices 3: the same number for each of 2 processes"),
        ((None, None, 1, True, None), "--distributed finds out what --process-id would say: leave it out"),
    ],
)
def test_options_that_do_not_fit_each_other(given, said):
    with pytest.raises(ConfigError) as caught:
        joining.group(*given, 30.0)
    assert caught.value.faults == [said]


def test_one_process_is_nothing_to_join():
    assert joining.group(None, None, None, False, 2, 30.0) is None
    assert joining.group("h:1", 1, 0, False, 3, 30.0) is None


def test_slurm_with_a_gpu_per_task_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="--gpus-per-task=1 hides the other GPUs of a node"):
        joining.refuse({"SLURM_GPUS_PER_TASK": "1", "SLURM_NTASKS": "4"})
    joining.refuse({"SLURM_GPUS_PER_TASK": "8", "SLURM_NTASKS": "4"})
    joining.refuse({"SLURM_GPUS_PER_TASK": "1", "SLURM_NTASKS": "1"})


def test_a_process_that_is_alone_on_its_node_takes_all_of_its_devices():
    assert joining._all_of_node({"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}) == []
    assert joining._all_of_node({"SLURM_STEP_TASKS_PER_NODE": "8(x4)"}) is None
    assert joining._all_of_node({"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}) is None
