"""The device fails: its engine raises, has no memory, stalls or overflows. And no memory is left for anything."""

from __future__ import annotations

import re
import resource
import time
from pathlib import Path

from benchmarks.faults.cases import PNG, classify, small_cases
from benchmarks.faults.images import blank, images, large
from benchmarks.faults.load import BUSY, load, loading
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.program import NO_MEMORY, NOT_FINITE, RAISES, STALLS
from benchmarks.faults.rest import at_rest
from benchmarks.faults.scale import Scale
from benchmarks.server import Server

PROGRAM = ("-m", "benchmarks.faults.program")
LITTLE = 24 << 20


def failing_engine(scale: Scale, outcome: Outcome) -> None:
    """Poisonous images share batches with good ones."""
    with Server("engine", program=PROGRAM) as server:
        poison = [
            classify("raises", (blank(RAISES),), PNG, weight=0.2, status=500),
            classify("no memory", (blank(NO_MEMORY),), PNG, weight=0.2, status=500),
            classify("not finite", (blank(NOT_FINITE),), PNG, weight=0.2, status=500),
            classify("stalls", (blank(STALLS),), PNG, weight=0.02),
        ]
        rest = at_rest(server.base, [*small_cases(), *poison])
        files = server.open_files()
        load(server, rest, 300, 5 if scale.quick else 60).enter(outcome, rest)
        outcome.faults += rest.surprises + server.settled(files)
        outcome.faults += server.unready()
        halves = server.log.read_text(encoding="utf-8").count("is run in halves")
        outcome.figures["batches_run_in_halves"] = halves
        outcome.require(halves > 0 or scale.quick, "no good image shared a batch with a poisonous one")


def out_of_memory(scale: Scale, outcome: Outcome) -> None:
    """The address space is limited to hardly more than is taken, while large and small images arrive."""
    seconds = 3 if scale.quick else 30
    big = classify("large", (large(4500), *images(1, 1500)), weight=0.5)
    with Server("memory-limit") as server:
        rest = at_rest(server.base, [*small_cases(), big])
        files, number = server.open_files(), server.process.pid
        with loading(server, rest, 60, 3 * seconds, BUSY | {"413"}) as loaded:
            time.sleep(seconds)
            resource.prlimit(number, resource.RLIMIT_AS, (_address_space(number) + LITTLE, resource.RLIM_INFINITY))
            time.sleep(seconds)
            outcome.require(server.status("/health/live") == 200, "the server is not alive without memory")
            resource.prlimit(number, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        loaded.enter(outcome, rest)
        outcome.require(loaded.counts.answered["413"] > 0, "memory never was short")
        load(server, rest, 30, 2).enter(outcome, rest)
        outcome.faults += server.settled(files)


def _address_space(number: int) -> int:
    text = Path(f"/proc/{number}/status").read_text(encoding="ascii")
    found = re.search(r"^VmSize:\s+(\d+) kB$", text, re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])
