"""One benchmark from a workload to its figures: start the contestants, measure them in turns, count, profile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lccl.bench import cpu
from lccl.bench import gpu as gpus
from lccl.bench.baselines import BASELINES
from lccl.bench.figures import Measured, contestant_row, figures
from lccl.bench.fresh import TOLERANCE
from lccl.bench.gpu import Gpu
from lccl.bench.turns import TURN_S, Advance, Contestant, profile, profile_turns, take_turns
from lccl.bench.workload import DENSE, Counts, Workload
from lccl.errors import LcclError
from lccl.plan.geometry import shape_of


@dataclass(frozen=True, slots=True)
class Options:
    """How a workload is measured.

    Attributes:
        threads: of every contestant on the CPU.
        scaling: further numbers of threads that own engines are measured with, in the same rounds.
        baselines: whether others' engines take part.
        layers: whether each step is timed too, on the CPU.

    """

    threads: int = 1
    precision: str = "fp32"
    rounds: int = 15
    scaling: tuple[int, ...] = ()
    baselines: bool = True
    layers: bool = True

    def __post_init__(self) -> None:
        if min(self.threads, self.rounds, *self.scaling) < 1:
            raise LcclError("a benchmark needs at least one thread and one round")
        if self.precision not in ("fp32", "bf16"):
            raise LcclError(f"unknown precision {self.precision!r}: use fp32 or bf16")


# Where progress goes: begins a stage with its name and number of turns, and returns what to call after each turn.
Stages = Callable[[str, int], Advance]


def run(workload: Workload, options: Options, stages: Stages, gpu: Gpu | None = None) -> dict[str, Any]:
    """Measure a workload and return its figures, ready for JSON and for :func:`lccl.bench.report.tables`.

    On the CPU every contestant has a process; on a GPU all are in this one, as CUDA graphs on the first batch, and are
    also measured end to end, from the host's memory to the host's, beside the best baseline.

    Raises:
        LcclError: an own engine cannot be built or computes something else. A baseline that is not to be had
            is named in the figures instead.

    """
    with ExitStack() as stack:
        contestants = _start(workload, options, stages, gpu, stack)
        present = [each for each in contestants if each.absent is None]
        own = [each for each in present if each.kind == "own" and each.threads == options.threads]
        advance = stages("measuring", options.rounds * len(present))
        turn_s = TURN_S if gpu is None else gpus.TURN_S
        turns = {each.name: each.turn for each in present}
        samples = take_turns(turns, options.rounds, advance=advance, turn_s=turn_s)
        counts = {each.setting: _count(workload, each) for each in own if each.setting != DENSE}
        profiles: dict[str, NDArray[np.float64]] = {}
        batches = len(workload.batches)
        if options.layers and gpu is None:
            profiles = profile(own, batches, stages("profiling", profile_turns(batches) * len(own)))
        precision = options.precision if gpu is None else gpu.precision
        result = figures(workload, precision, Measured(tuple(contestants), samples, counts, profiles))
        if gpu is not None:
            best = result["best_baseline"]
            whole = [each for each in present if each.kind == "own" or each.name == best]
            advance = stages("end to end", options.rounds * len(whole))
            samples = gpus.end_to_end(whole, options.rounds, advance)
            result["end_to_end"] = [contestant_row(each, samples, best) for each in whole]
    return result


def _start(workload: Workload, options: Options, stages: Stages, gpu: Gpu | None, stack: ExitStack) -> list[Contestant]:
    threads = tuple(dict.fromkeys((options.threads, *options.scaling)))
    others = (BASELINES if gpu is None else gpus.BASELINES) if options.baselines else ()
    advance = stages("starting", len(others) + 2 * len(threads))
    if gpu is not None:
        return gpus.start(workload, gpu, options.baselines, advance)
    return cpu.start(workload, threads, options.precision, options.baselines, advance, stack)


def _count(workload: Workload, contestant: Contestant) -> Counts:
    """What the engine itself kept and executed, checked against the reference's count.

    Raises:
        LcclError: it skips another share of a layer than the reference does.

    """
    counts, shape = contestant.runner.count(contestant.setting), shape_of(workload.plan)
    expected = next(each.kept for each in workload.settings if each.name == contestant.setting)
    images = min(len(expected), len(counts.kept))
    off = np.abs(shape.layer_skip_ratios(counts.kept[:images] - expected[:images]).mean(0) - 1)
    if off.max() > TOLERANCE:
        layer = shape.layers[int(off.argmax())].name
        raise LcclError(f"{contestant.name} skips {off.max():.3f} more or less of {layer} than the reference engine")
    return counts
