"""Two processes with two devices each, on this machine: what one process does, killed and gone on with."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from tests.command_line import CONFIG, command, l2l

DEVICES = 4
TRAIN = ["--devices", DEVICES, "--set", "train.episodes=12", "--set", "train.tasks=4"]
TRAIN += ["--set", "train.checkpoint_seconds=0.001", "--set", "eval.report=false"]


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(folder, *arguments):
    """Both processes at work in `folder`."""
    together = ["--coordinator", f"127.0.0.1:{port()}", "--num-processes", 2, "--peer-timeout", 20]
    environment = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    return [
        subprocess.Popen(
            command(*arguments, *together, "--process-id", i),
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for i in range(2)
    ]


def end(processes):
    """(exit code, stdout, stderr) of each."""
    found = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err
        found.append((process.returncode, out, err))
    return found


def phi(run):
    with np.load(run / "optimizer.npz") as file:
        return {name: file[name] for name in file if name != "__meta__"}


def content(run):
    return {name: (run / name).read_bytes() for name in ("optimizer.npz", "metrics.jsonl", "curves/small.csv")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder in which two processes have trained, undisturbed, into `two`."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "small.yaml").write_text(CONFIG)
    (code, out, err), other = end(start(folder, "train", "small.yaml", "--run-dir", "two", *TRAIN))
    assert code == 0, err
    assert "results: two" in out
    assert "Gloo" not in out + err
    assert other == (0, "", "")
    return folder


def test_they_find_what_one_process_finds(whole):
    alone = command("train", "small.yaml", "--run-dir", "one", *TRAIN)
    environment = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    subprocess.run(alone, cwd=whole, env=environment, check=True, capture_output=True)
    one, two = phi(whole / "one"), phi(whole / "two")
    for name, leaf in one.items():
        assert np.abs(leaf - two[name]).max() <= 1e-5 * np.abs(leaf).max()
    losses = [
        np.genfromtxt(whole / run / "curves/small.csv", delimiter=",", skip_header=1, usecols=3) for run in ("one", "two")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-3, atol=1e-5)  # of optimizers that differ by that, on seeds that are split


def test_killed_and_gone_on_with_by_two_and_by_one(whole):
    processes = start(whole, "train", "small.yaml", "--run-dir", "killed", *TRAIN)
    rows = whole / "killed" / "metrics.jsonl"
    checkpoints = whole / "killed" / "checkpoints"
    began = time.monotonic()
    while not (checkpoints.is_dir() and any(entry.name.isdigit() for entry in checkpoints.iterdir())):
        assert time.monotonic() - began < 100
        time.sleep(0.005)
    worker = subprocess.run(["pgrep", "-P", str(processes[1].pid)], capture_output=True, text=True).stdout.split()[0]
    os.kill(int(worker), signal.SIGKILL)
    line = "l2l: process 1 of 2 was killed by SIGKILL; go on with: l2l train --resume killed"
    for code, _, err in end(processes):
        assert code == 1
        assert [said for said in err.splitlines() if said.startswith("l2l")] == [line]
    assert len(rows.read_text().splitlines()) < len((whole / "two/metrics.jsonl").read_text().splitlines())
    shutil.copytree(whole / "killed", whole / "by-one")

    assert [code for code, _, _ in end(start(whole, "train", "--resume", "killed"))] == [0, 0]
    assert content(whole / "killed") == content(whole / "two")

    subprocess.run(command("train", "--resume", "by-one"), cwd=whole, check=True, capture_output=True)
    for name, leaf in phi(whole / "two").items():
        assert np.abs(leaf - phi(whole / "by-one")[name]).max() <= 1e-5 * np.abs(leaf).max()


def test_a_suite_is_split(whole):
    (whole / "suite").mkdir()
    for dimension in (2, 3, 4):  # three for two processes: the last round has work for one of them
        problem = f"name: q{dimension}\nproblem: {{kind: quadratic, dimension: {dimension}}}\n"
        text = f"{problem}eval: {{steps: 6, seeds: 3, tuning_seeds: 2, baselines: [sgd]}}\n"
        (whole / "suite" / f"q{dimension}.yaml").write_text(text)
    (code, out, err), other = end(start(whole, "score", "two", "--suite", "suite"))
    assert (code, other) == (0, (0, "", "")), err
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["q2", "q3", "q4"]
    [score] = (whole / "runs/scores").glob("*/score.json")
    two = json.loads(score.read_text())
    shutil.rmtree(whole / "runs")
    l2l(whole, "score", "two", "--suite", "suite")
    one = json.loads(score.read_text())
    for task in ("q2", "q3", "q4"):
        found = [of["tasks"][task] for of in (one, two)]
        np.testing.assert_allclose(*(of["log_ratios"] for of in found), rtol=1e-4, atol=1e-4)
        assert found[0]["verdict"] == found[1]["verdict"]
