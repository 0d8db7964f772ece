"""The log: JSON lines, and nobody waits for those that cannot be written."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
import time

import pytest

from service.telemetry import logs
from service.telemetry.logs import BackgroundHandler
from tests.service.engines import wait_for

PIPE_BYTES = 4096


@pytest.fixture(name="pipe")
def _pipe():
    """The reading and the writing end of a small pipe."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    os.set_blocking(reader, False)
    yield reader, writer
    for end in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(end)


@contextlib.contextmanager
def logging_to(file, **options):
    log = logging.Logger("test")
    handler = BackgroundHandler(file, **options)
    log.addHandler(handler)
    try:
        yield log
    finally:
        handler.close()


def read(reader):
    try:
        return os.read(reader, 1 << 20)
    except BlockingIOError:
        return b""


def test_lines_arrive_in_their_order(pipe):
    with logging_to(pipe[1]) as log:
        for number in range(100):
            log.info("line %d ü", number)
    assert read(pipe[0]).decode().splitlines() == [f"line {number} ü" for number in range(100)]


def test_a_pipe_that_nobody_reads_holds_nobody_up_and_what_is_lost_is_counted(pipe, monkeypatch):
    monkeypatch.setattr(logs, "PATIENCE_S", 0.1)
    with logging_to(pipe[1], limit=50) as log:
        started = time.monotonic()
        for number in range(2000):
            log.info("%04d %s", number, "x" * 95)
        assert time.monotonic() - started < 1.0
        time.sleep(0.1)
        log.info("one more")
        found, written, lost = b"", [], 0

        def accounted():
            nonlocal found, written, lost
            found += read(pipe[0])
            lines = found.decode().splitlines()
            written = [line[:4] for line in lines if line.endswith("x" * 95)]
            lost = sum(int(line.split()[0]) for line in lines if "lost" in line)
            return len(written) + lost + ("one more" in lines) == 2001

        wait_for(accounted)
    assert lost > 1000
    assert written == sorted(written)


def test_an_end_does_not_wait_for_a_pipe_that_nobody_reads(pipe, monkeypatch):
    monkeypatch.setattr(logs, "PATIENCE_S", 0.1)
    with logging_to(pipe[1]) as log:
        for _ in range(1000):
            log.info("x" * 100)
        time.sleep(0.1)
        started = time.monotonic()
    assert time.monotonic() - started < 1.0
    while read(pipe[0]):  # lets the thread of the handler end
        time.sleep(0.01)


@pytest.mark.parametrize("room", [0, 7, 25], ids=["nothing", "part of a line", "a line and part of one"])
def test_after_a_full_disk_the_log_goes_on_and_tells_what_was_lost(pipe, monkeypatch, room):
    write, left = os.write, [room]

    def full(file, content):
        if file != pipe[1]:
            return write(file, content)
        if not left[0]:
            raise OSError(errno.ENOSPC, "no space left on device")
        done = write(file, bytes(content[: left[0]]))
        left[0] -= done
        return done

    monkeypatch.setattr(os, "write", full)
    with logging_to(pipe[1]) as log:
        for number in range(3):
            log.info("%d %s", number, "x" * 17)
        wait_for(lambda: not left[0])
        time.sleep(0.1)
        left[0] = 1 << 20
        log.info("room again")
        time.sleep(0.1)
    lines = [line for line in read(pipe[0]).decode().split("\n") if line]
    kept = room // 20
    assert lines[kept + bool(room % 20) :] == [
        f"{3 - kept} lines of this log were lost: they could not be written",
        "room again",
    ]


def test_what_is_logged_while_the_last_lines_are_written_is_written_too(pipe, monkeypatch):
    write, writing, go_on = os.write, threading.Event(), threading.Event()

    def slow(file, content):
        writing.set()
        go_on.wait(10)
        return write(file, content)

    monkeypatch.setattr(os, "write", slow)
    with logging_to(pipe[1]) as log:
        log.info("first")
        assert writing.wait(10)
        log.info("second")
        threading.Timer(0.1, go_on.set).start()
    assert read(pipe[0]) == b"first\nsecond\n"


def test_a_line_that_cannot_be_formatted_is_told_on_standard_error(pipe, capsys):
    with logging_to(pipe[1]) as log:
        log.info("%d", "no number")
        log.info("next")
    assert read(pipe[0]) == b"next\n"
    assert "no number" in capsys.readouterr().err


PROGRAM = """
import logging, os, signal, sys
from service.telemetry.logs import configure
configure("info")
logging.getLogger("service.access").info("last words", extra={"status": 200})
"""


def test_what_was_logged_last_is_written_before_the_process_ends():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    (entry,) = (json.loads(line) for line in done.stdout.splitlines())
    assert (entry["message"], entry["level"], entry["status"]) == ("last words", "INFO", 200)


def test_without_standard_output_nothing_is_written_elsewhere():
    command = f'exec "{sys.executable}" -c "$0" >&-'
    done = subprocess.run(["/bin/sh", "-c", command, PROGRAM], capture_output=True, text=True, check=True)
    assert not done.stderr
