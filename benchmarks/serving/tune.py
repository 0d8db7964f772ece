"""Finds each peer's best settings: all candidates on one runtime, then the best ones on all, in every precision."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import results
from benchmarks.serving.servers import HAPROXY, Setup

TUNING = results.FOLDER / "serving" / "tuning.json"
PEERS = ("FastAPI", "LitServe", "BentoML", "Ray Serve")
NATIVE = "lccl"
AS_FAST = 0.97


@dataclass(frozen=True, slots=True)
class Tried:
    """A peer's settings, and what they gave.

    Attributes:
        answers_per_s: as counted.
        quiet_per_s: the same over the share of the machine that no one else took: what counts, for tuning takes long.

    """

    network: str
    peer: str
    setup: Setup
    answers_per_s: float
    quiet_per_s: float


Try = Callable[[str, Setup], Tried]
Variant = tuple[str, str]  # a runtime and a precision


def candidates(peer: str, network: str) -> list[Setup]:
    """What is tried: a process per core, or one with two threads; batches, windows, and what else a peer offers."""
    small = network == "resnet20"
    few, middle, many = (16, 32, 64) if small else (2, 4, 8)
    apart = Setup("openvino", workers=2, batch=middle, window_ms=2)
    together = replace(apart, workers=1, threads=2, decoders=2)
    sizes = [replace(apart, batch=few), apart, replace(apart, batch=many)]
    four = (*sizes, together)
    return {
        "FastAPI": [*four, replace(apart, window_ms=0), replace(apart, window_ms=5)],
        "LitServe": [
            *(replace(setup, window_ms=5, front="1") for setup in four),
            replace(apart, window_ms=5, front="2"),
            replace(sizes[2], window_ms=10 if small else 50, front="1"),
        ],
        "BentoML": [replace(setup, window_ms=60_000) for setup in four],
        "Ray Serve": [
            *(replace(setup, front=HAPROXY) for setup in four),
            apart,
            replace(apart, front=HAPROXY, window_ms=10),
        ],
    }[peer]


def tune(network: str, peer: str, attempt: Try, rounds: int, variants: Sequence[Variant]) -> list[Tried]:
    """Try a peer's candidates with the first variant of the twin, then the best ones on the others.

    These are the best with one process and with several; the others include this project's own engine.
    """
    backend, precision = variants[0]
    base = [replace(setup, backend=backend, precision=precision) for setup in candidates(peer, network)]
    first = _best_of(peer, base, attempt, rounds)
    finalists = {tried.setup.workers: tried.setup for tried in reversed(_fastest_first(first))}.values()
    others = [
        replace(setup, backend=backend, precision=precision)
        for backend, precision in (*variants[1:], (NATIVE, "fp32"))
        for setup in finalists
    ]
    return first + _best_of(peer, others, attempt, rounds)


def is_tuned(tried: Iterable[Tried], network: str, peer: str, variants: Sequence[Variant]) -> bool:
    """Whether settings of a peer were tried on a network, with all variants and with this project's engine."""
    found = {(one.setup.backend, one.setup.precision) for one in tried if (one.network, one.peer) == (network, peer)}
    return found >= {*variants, (NATIVE, "fp32")}


def choose(tried: Iterable[Tried], network: str, peer: str, variants: Sequence[Variant]) -> Setup:
    """The fastest settings of a peer with one of these variants; of several as fast the ones that wait least.

    Raises:
        LookupError: none was tried.

    """
    fitting = [
        one
        for one in tried
        if (one.network, one.peer) == (network, peer) and (one.setup.backend, one.setup.precision) in variants
    ]
    if not fitting:
        raise LookupError(f"{peer} was never tuned on {network}: run python -m benchmarks.serving tune")
    least = AS_FAST * max(one.quiet_per_s for one in fitting)
    as_fast = [one for one in _fastest_first(fitting) if one.quiet_per_s >= least]
    return min(as_fast, key=lambda one: one.setup.window_ms).setup


def read(file: Path = TUNING) -> list[Tried]:
    """What was tried so far; nothing where there is no file."""
    if not file.exists():
        return []
    rows = json.loads(file.read_text(encoding="utf-8"))["tried"]
    return [Tried(**{**row, "setup": Setup(**row["setup"])}) for row in rows]


def merge(before: Iterable[Tried], fresh: Sequence[Tried]) -> list[Tried]:
    """What was tried before, its networks' and peers' rows replaced by fresh ones where there are any."""
    renewed = {(one.network, one.peer) for one in fresh}
    return [one for one in before if (one.network, one.peer) not in renewed] + list(fresh)


def _best_of(peer: str, setups: Sequence[Setup], attempt: Try, rounds: int) -> list[Tried]:
    """Each one's best round: what else the machine does can only make a server slower."""
    found = [[attempt(peer, setup) for setup in setups] for _ in range(rounds)]
    return [_fastest_first(column)[0] for column in zip(*found, strict=True)]


def _fastest_first(tried: Iterable[Tried]) -> list[Tried]:
    return sorted(tried, key=lambda one: -one.quiet_per_s)
