"""Milliseconds of a step of the shipped optimizers in PyTorch, beside `torch.optim.Adam`: what docs/guides/torch.md tells.

    python -m tests.frameworks.time_torch [--threads 1] [--rounds 20] [--device cpu] [--hidden 20 1258] [OPTIMIZER …]

A network 784-H-10, its gradients drawn once. In turn, in one process: a round steps each optimizer a few times, and the median
over the rounds is of the mean of each. With one thread on a CPU it is processor time, which other programs on the machine
lengthen little; else it is the time that passes.
"""

import argparse
import statistics
import time

import torch

from l2lcli.torch import LearnedOptimizer

NAMES = ["general", "general-small", "digits", "mnist"]
SECONDS = 0.03  # of an optimizer in a round, at least a step


def network(hidden, device):
    torch.manual_seed(0)
    parameters = list(torch.nn.Sequential(torch.nn.Linear(784, hidden), torch.nn.Linear(hidden, 10)).to(device).parameters())
    for parameter in parameters:
        parameter.grad = 0.01 * torch.randn_like(parameter)
    return parameters


def timed(run, steps, wait, clock=time.perf_counter):
    start = clock()
    for _ in range(steps):
        run()
    wait()
    return (clock() - start) / steps


def measure(names, hidden, rounds, device):
    """(parameters, name -> median seconds of a step)."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    loss, runs = torch.tensor(1.0, device=device), {}
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    size = sum(parameter.numel() for parameter in network(hidden, device))
    adam = torch.optim.Adam(network(hidden, device), foreach=True)
    runs["Adam"] = adam.step
    for name in names:
        optimizer = LearnedOptimizer(network(hidden, device), name)
        runs[name] = lambda optimizer=optimizer: optimizer.step(loss=loss)
    steps = {}
    for name, run in runs.items():
        timed(run, 3, wait)
        steps[name] = max(1, min(200, int(SECONDS / timed(run, 2, wait))))
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            timed(run, 1, wait)  # what another optimizer left in the caches is not its cost
            times[name].append(timed(run, steps[name], wait, clock))
    return size, {name: statistics.median(found) for name, found in times.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--hidden", type=int, nargs="*", default=[20, 1258])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"torch {torch.__version__}, {given.device}, {given.threads} threads, {given.rounds} rounds: ms a step, times Adam's")
    for hidden in given.hidden:
        size, found = measure(given.names or NAMES, hidden, given.rounds, given.device)
        for name, seconds in found.items():
            print(f"{size:9,d}  {name:16s} {1e3 * seconds:9.3f}  {seconds / found['Adam']:7.1f}", flush=True)


if __name__ == "__main__":
    main()
