"""What a run of ``benchmarks/on_gpu.sh`` came to: the machine, how each stage ended, and the tests' verdict.

python -m benchmarks.gpu.summary stage OUT NAME STATUS SECONDS
python -m benchmarks.gpu.summary tests OUT REPORT COMMAND
python -m benchmarks.gpu.summary end OUT
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.console import Console

from benchmarks import goals
from lccl.engines.cuda.devices import PROVEN, slug

HOME = Path(__file__).parents[2]
ENDED = {0: "done", 124: "ran out of time", 137: "ran out of time", 127: "not to be had here"}  # by exit status
NOT_FATAL = ("sanitizer",)
KINDS = ("passed", "failed", "errors", "skipped")
ALL_TESTS = " tests/lccl/cuda -q -ra"  # how the command ends that leaves none out

Figures = dict[str, Any]


def stage(out: Path, name: str, status: int, seconds: int) -> int:
    """Note how a stage ended."""
    found = read(out / "summary.json") or {"stages": {}}
    found["stages"][name] = {"ended": ENDED.get(status, "failed"), "status": status, "seconds": seconds}
    write(out / "summary.json", found)
    return 0


def tests(out: Path, report: Path, command: str) -> int:
    """Write tests.json from pytest's JUnit file; 1 unless tests ran and all passed."""
    summary = read(out / "summary.json") or {}
    machine = summary.get("machine", {})
    found = {
        "device": machine.get("gpu", {}).get("name"),
        **counted_tests(report),
        "commit": summary.get("commit"),
        **{name: machine.get(name) for name in ("torch", "triton", "python")},
        "command": command,
    }
    write(out / "tests.json", found)
    return 0 if proves(found) else 1


def end(out: Path, console: Console) -> int:
    """Print the goals, the stages, and what the tests allow; 1 where a stage failed."""
    summary = read(out / "summary.json") or {"stages": {}}
    kernels, networks = read(out / "kernels.json"), read(out / "networks.json")
    if kernels or networks:
        goals.show(goals.on_gpu(kernels, networks), console)
    for name, found in summary["stages"].items():
        console.print(f"{name}: {found['ended']} ({found['seconds']} s)")
    proof = read(out / "tests.json")
    if proof is not None:
        console.print(", ".join(f"{proof[kind]} {kind}" for kind in KINDS), f"on {proof['device']}", soft_wrap=True)
        if proof["device"] and proof["command"].endswith(ALL_TESTS) and proves(proof):
            file = PROVEN.relative_to(HOME) / f"{slug(proof['device'])}.json"
            console.print(f"copied to {file}, {out / 'tests.json'} lets device=auto choose this GPU", soft_wrap=True)
    bad = [name for name, found in summary["stages"].items() if found["status"] and name not in NOT_FATAL]
    return 1 if bad else 0


def write(file: Path, content: Figures) -> None:
    """Write JSON so that a reader never sees half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}")
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draft.replace(file)


def read(file: Path) -> Figures | None:
    """A JSON file's content; None where there is no such file."""
    found: Figures | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return found


def counted_tests(report: Path) -> dict[str, int]:
    """Tests by outcome in a JUnit file; one error where there is none, for then pytest did not finish."""
    try:
        suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    except (OSError, ElementTree.ParseError):
        return dict.fromkeys(KINDS, 0) | {"errors": 1}
    total = {
        name: sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    }
    bad = total["failures"] + total["errors"] + total["skipped"]
    return {
        "passed": total["tests"] - bad,
        "failed": total["failures"],
        "errors": total["errors"],
        "skipped": total["skipped"],
    }


def proves(verdict: dict[str, Any]) -> bool:
    """Whether tests ran, and all that ran passed."""
    return bool(verdict["passed"] > 0 and verdict["failed"] == verdict["errors"] == 0)


def main(words: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run one of the commands, and return its exit status."""
    what, folder, *rest = sys.argv[1:] if words is None else words
    out = Path(folder)
    commands: dict[str, Callable[[], int]] = {
        "stage": lambda: stage(out, rest[0], int(rest[1]), int(rest[2])),
        "tests": lambda: tests(out, Path(rest[0]), rest[1]),
        "end": lambda: end(out, console or Console()),
    }
    return commands[what]()


if __name__ == "__main__":
    sys.exit(main())
