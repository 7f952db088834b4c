"""The lines that a run prints: the rate and the time left are those of late, not of the compilation."""

import pytest

from l2lcli.commands import progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    return now


def test_time_left_does_not_count_the_compilation(clock, capsys):
    with progress.Display(1000) as shown:
        shown.begin(0)
        for step in range(1, 101):
            clock[0] += 100.0 if step == 1 else 2.0  # the first meta-step waits for the compiler
            shown.update(step, [{"episode": step, "loss": 1.5}])
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "episode 1  loss 1.5  0 %"  # no rate can be told yet
    assert "0.500 meta-steps/s" in last
    step = int(last.split()[1])
    minutes, seconds = last.split()[-2].split(":")
    assert 60 * int(minutes) + int(seconds) == 2 * (1000 - step)


def test_rate_follows_a_change_within_its_window(clock, capsys):
    with progress.Display(10**6) as shown:
        shown.begin(500)  # resumed
        step = 500
        for seconds, count in ((0.1, 1000), (1.0, 200)):  # ten per second, then another process takes the cores
            for _ in range(count):
                clock[0] += seconds
                step += 1
                shown.update(step, [])
    lines = capsys.readouterr().err.splitlines()
    assert "10.0 meta-steps/s" in lines[5]
    assert "1.0 meta-steps/s" in lines[-1]
