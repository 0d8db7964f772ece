"""How many processors there are to compute on: those that can be seen, or what a container's quota leaves of them.

Quotas are read as the kernel documents them (docs.kernel.org, ``admin-guide/cgroup-v2`` and ``sched-bwc``): ``cpu.max``
in cgroup v2, ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` in v1; the smallest of all groups that a process is in.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PROCESS = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class Cores:
    """How many threads can compute at once, and what decides that: a sentence for the log."""

    count: int
    source: str


def usable_cores() -> int:
    """How many cores this process may use; of a quota that is no whole number the next one, at least 1."""
    return find_cores().count


def find_cores(process: Path = PROCESS) -> Cores:
    """The same with its source.

    Args:
        process: the folder of this process in ``/proc``.

    """
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, file = min(_quotas(process), default=(math.inf, Path()))
    if quota >= seen:
        return Cores(seen, f"{seen} processors can be seen")
    return Cores(max(1, math.ceil(quota)), f"{seen} processors can be seen, and {file} allows {quota:g} of them")


def _quotas(process: Path) -> Iterator[tuple[float, Path]]:
    """Processors that each group's quota allows, with the file that says so."""
    for group in control_groups(process):
        v2, v1 = group / "cpu.max", group / "cpu.cfs_quota_us"
        for file, words in ((v2, _words(v2)), (v1, _words(v1) + _words(group / "cpu.cfs_period_us"))):
            try:
                quota, period = map(int, words)
            except ValueError:  # no such file, or "max"
                continue
            if quota > 0 and period > 0:
                yield quota / period, file


def control_groups(process: Path = PROCESS) -> Iterator[Path]:
    """The folders of a process's groups that may have a CPU quota, each followed by its parents as far as seen."""
    paths = dict(_own_groups(process))
    for line in _lines(process / "mountinfo"):
        mount, _, kind = line.partition(" - ")
        words, types = mount.split(), kind.split()
        if len(words) < 5 or len(types) < 3 or types[0] not in ("cgroup", "cgroup2"):
            continue
        path = paths.get("" if types[0] == "cgroup2" else "cpu")
        if path is None or (types[0] == "cgroup" and "cpu" not in types[2].split(",")):
            continue
        root, folder = PurePosixPath(words[3]), Path(words[4])
        below = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
        if ".." in below.parts:  # outside of what this container sees
            below = PurePosixPath()
        for part in (below, *below.parents):
            yield folder / part


def _own_groups(process: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """A process's group in the hierarchy of v2, named "", and in the one of v1 that has quotas, named "cpu"."""
    for line in _lines(process / "cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            yield "", PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            yield "cpu", PurePosixPath(path)


def _words(file: Path) -> list[str]:
    return [word for line in _lines(file) for word in line.split()]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
