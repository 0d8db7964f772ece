"""A server's processes: the tree below one that keeps orphans, stopped, counted and ended as a whole. Linux only.

Servers start daemons that leave their parents. So each server runs below ``python -m benchmarks.serving.processes
COMMAND …``, which the kernel makes the parent of whatever loses its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SET_PARENT_DEATH_SIGNAL, SET_CHILD_SUBREAPER = 1, 36  # prctl(2)


def below(root: int) -> list[int]:
    """The ids of all processes below one."""
    parents = {number: fields[1] for number in _numbers() if (fields := _stat(number))}
    found = [root]
    for parent in found:
        found += [number for number, known in parents.items() if int(known) == parent]
    return found[1:]


def signal_all(root: int, what: signal.Signals) -> None:
    """Send a signal to all processes below one, until no new ones turn up."""
    reached: set[int] = set()
    while fresh := set(below(root)) - reached:
        for number in fresh:
            with suppress(ProcessLookupError):
                os.kill(number, what)
        reached |= fresh


def cpu_seconds(root: int) -> float:
    """Processor time that all processes below one have taken, with those that have ended."""
    total = 0
    for number in (root, *below(root)):
        if fields := _stat(number):
            # user and system time; of children that ended and were waited for too
            total += sum(map(int, fields[11:15]))
    return total / TICKS_PER_S


def machine_seconds() -> float:
    """Processor time that all of the machine's processes have taken, with what a hypervisor withheld."""
    first = Path("/proc/stat").read_text().splitlines()[0]
    user, nice, system, _, _, interrupt, soft_interrupt, stolen = map(int, first.split()[1:9])
    return (user + nice + system + interrupt + soft_interrupt + stolen) / TICKS_PER_S


def keep(command: list[str]) -> int:
    """Run a command; keep its orphans below this process, and end all of them when it ends or SIGTERM comes."""
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((SET_CHILD_SUBREAPER, 1), (SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)):
        if libc.prctl(option, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl failed")
    child = subprocess.Popen(command)

    def stop(_: int, __: FrameType | None) -> None:
        child.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    status = child.wait()
    signal_all(os.getpid(), signal.SIGKILL)
    return status


def _numbers() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(number: int) -> list[str]:
    """The fields of /proc/N/stat from the third on; none of a process that has ended."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


if __name__ == "__main__":
    raise SystemExit(keep(sys.argv[1:]))
