"""How long what was compared takes, beside the plain twin, by turns on the native engine in fp32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import turn_of
from benchmarks.photographs.comparison import candidate_at, twin_candidate
from benchmarks.photographs.families import GATED, REMOVED, SKIPPING, WITH_EXITS
from benchmarks.photographs.measuring import Bench, Candidate
from lccl.bench.turns import Samples, take_turns
from lccl.engines.cpu.engine import CpuEngine
from lccl.measurement import exact_setting
from lccl.plan.run import RunOptions
from lccl.plan.steps import Convolve

Row = dict[str, Any]
Batches = Mapping[int, list[NDArray[np.uint8]]]
BATCHES = (1, 8)
IMAGES, PROFILES = 16, 5
TIME_AT_MOST = 0.6


@dataclass(frozen=True, slots=True, eq=False)
class _Timed:
    """What is timed: its family, and its accuracy on the test images."""

    family: str
    candidate: Candidate
    accuracy: float


def times(bench: Bench, figures: Row, rounds: int) -> list[Row]:
    """For each batch size a row for every skip ratio that was asked for, and for every rival's position.

    Args:
        figures: the comparison's result.
        rounds: of turns; a share of the twin's time is taken within a round.

    """
    timed = [*_asked(bench, figures["lost"]), *_positions(bench, figures["positions"])]
    twin = twin_candidate(bench)
    sizes = {twin.size, *(each.candidate.size for each in timed)}
    images = {size: bench.some_test_images(size, IMAGES).images[:] for size in sizes}
    rows = []
    for batch in BATCHES:
        batches = {size: np.split(pixels, len(pixels) // batch) for size, pixels in images.items()}
        runs = {twin: twin} | {each.candidate: each.candidate for each in timed if each.family != REMOVED}
        turns = {
            str(number): turn_of(bench.engine(each.network, each.size), batches[each.size], each.setting)
            for number, each in enumerate(runs)
        }
        samples = take_turns(turns, rounds, 1)
        names = dict(zip(runs, turns, strict=True))
        rows += [{"batch": batch} | _row(bench, each, samples, names, twin, batches) for each in timed]
    return rows


def _asked(bench: Bench, lost: list[Row]) -> list[_Timed]:
    reached = [row for row in lost if "out_of_reach" not in row]
    candidates = [candidate_at(bench, row["network"], row["asked"]) for row in reached]
    return [
        _Timed(SKIPPING if row["network"] == GATED else WITH_EXITS, candidate, row["accuracy"])
        for row, candidate in zip(reached, candidates, strict=True)
        if candidate is not None
    ]


def _positions(bench: Bench, rows: list[Row]) -> list[_Timed]:
    """The other families' positions; those of the network that skips are timed as they are asked for."""
    timed = []
    for row in rows:
        if row["family"] in (SKIPPING, WITH_EXITS):
            continue
        points = {point.name: point.setting for point in bench.bundles[row["network"]].table.points}
        setting = points["exact" if row["removed"] else row["point"]]
        candidate = Candidate(row["network"], row["size"], row["point"], setting, removed=tuple(row["removed"]))
        timed.append(_Timed(row["family"], candidate, row["accuracy"]))
    return timed


def _row(
    bench: Bench, each: _Timed, samples: Samples, names: Mapping[Candidate, str], twin: Candidate, batches: Batches
) -> Row:
    candidate, against = each.candidate, samples.seconds[names[twin]]
    if each.family == REMOVED:
        shares = np.array([_without(bench, twin, candidate.removed, batches)])
        work = None
    else:
        shares = samples.seconds[names[candidate]] / against
        work = _work(bench, candidate, batches)
    low, middle, high = np.quantile(shares, [0.25, 0.5, 0.75]).tolist()
    return {
        "family": each.family, "network": candidate.network, "size": candidate.size, "point": candidate.point,
        "accuracy": each.accuracy, "ms": 1000 * middle * float(np.median(against)), "share": middle,
        "quartiles": [low, high], "work": work,
    }  # fmt: skip


def _work(bench: Bench, candidate: Candidate, batches: Batches) -> float:
    """Share of the plain twin's MACs on the images that are timed."""
    engine = bench.engine(candidate.network, candidate.size)
    outputs = [engine.run(batch, RunOptions.of([candidate.setting] * len(batch))) for batch in batches[candidate.size]]
    macs = [engine.shape.gated(output.kept, output.exit_index).mean() for output in outputs]
    return float(np.mean(macs)) / bench.twin_macs


def _without(bench: Bench, twin: Candidate, removed: tuple[int, ...], batches: Batches) -> float:
    """Share of the plain twin's time without the convolutions of some blocks' branches, by its steps' times."""
    engine = bench.engine(twin.network, twin.size)
    if not isinstance(engine, CpuEngine):
        return float("nan")
    batch = batches[twin.size][0]
    seconds = engine.profile(batch, RunOptions.of([exact_setting(engine)] * len(batch)), PROFILES)
    branches = tuple(f"blocks.{block}.conv" for block in removed)
    left = [
        not (isinstance(step, Convolve) and step.name.startswith(branches)) if branches else True
        for step in engine.plan.steps
    ]
    return float(seconds[left].sum() / seconds.sum())
