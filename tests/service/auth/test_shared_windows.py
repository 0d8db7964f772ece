"""Windows that several processes count in: together, and whatever becomes of one of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from service.auth.rate_limits import RateLimits
from service.auth.shared_windows import PLACES, SharedWindows
from tests.service.refusals import refused

COUNT = """
import sys
from service.auth.shared_windows import SharedWindows
windows = SharedWindows(int(sys.argv[1]))
print(sum(windows.count("a", 1000.0, 5.0)[0] < 500 for _ in range(400)))
"""
HOLD = """
import fcntl, sys, time
from service.auth.shared_windows import SharedWindows
SharedWindows(int(sys.argv[1]))
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def file():
    with tempfile.TemporaryFile() as opened:
        yield opened.fileno()


def start(program, file):
    return subprocess.Popen(
        [sys.executable, "-c", program, str(file)], pass_fds=[file], stdout=subprocess.PIPE, text=True
    )


def test_a_window_takes_its_requests_until_it_ends(file):
    windows = SharedWindows(file, fresh=True)
    assert [windows.count("a", 10.0, now) for now in (1.0, 2.0, 10.9)] == [(0, 11.0), (1, 11.0), (2, 11.0)]
    assert windows.count("b", 5.0, 2.0) == (0, 7.0)
    assert windows.count("a", 10.0, 11.0) == (0, 21.0)


def test_processes_count_together(file):
    SharedWindows(file, fresh=True)
    counting = [start(COUNT, file) for _ in range(2)]
    assert sum(int(one.communicate(timeout=30)[0]) for one in counting) == 500


def test_a_process_that_dies_with_the_lock_stops_nobody(file):
    windows = SharedWindows(file, fresh=True)
    holding = start(HOLD, file)
    assert holding.stdout.readline() == "held\n"
    os.kill(holding.pid, signal.SIGKILL)
    assert windows.count("a", 10.0, 1.0) == (0, 11.0)
    holding.communicate()


def test_where_all_places_are_taken_the_window_that_ends_first_gives_way(file, monkeypatch):
    monkeypatch.setattr("service.auth.shared_windows.CALLERS", PLACES + 1)  # all stand in the same places
    windows = SharedWindows(file, fresh=True)
    for number in range(PLACES):
        windows.count(f"caller {number}", 10.0, 1.0 + number)
    windows.count("one more", 10.0, 9.0)
    assert windows.count("caller 1", 10.0, 9.0)[0] == 1
    assert windows.count("caller 0", 10.0, 9.0)[0] == 0


def test_rates_are_refused_over_all_processes(file):
    SharedWindows(file, fresh=True)
    clock = iter(range(1, 9))
    limits = [RateLimits("3/minute", SharedWindows(file), lambda: next(clock)) for _ in range(2)]
    for one in (0, 1, 0):
        limits[one].count("a")
    with refused("rate_limited") as caught:
        limits[1].count("a")
    assert caught.value.retry_after_s == pytest.approx(57)
