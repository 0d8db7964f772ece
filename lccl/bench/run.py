"""One benchmark from a workload to its figures: contestants are started, measured in turns, counted and profiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lccl.bench import cpu
from lccl.bench import gpu as gpus
from lccl.bench.baselines import baselines_beside
from lccl.bench.gpu import Gpu
from lccl.bench.turns import TURN_S, Advance, Contestant, Samples, profile, profile_turns, take_turns
from lccl.bench.untrained import TOLERANCE
from lccl.bench.workload import DENSE, OWN, OWN_DENSE, Counts, Workload
from lccl.errors import LcclError
from lccl.plan.geometry import NetworkShape, convolution_of, shape_of
from lccl.plan.steps import AveragePool, Classify, Convolve, Exit, Plan, Step


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """All that was measured.

    Attributes:
        contestants: absent ones too; own ones with the main number of threads come before those with others.
        counts: by setting.
        profiles: seconds of each step, float64 [steps], by contestant; empty where no steps were timed.

    """

    contestants: tuple[Contestant, ...]
    samples: Samples
    counts: Mapping[str, Counts]
    profiles: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What counts in a step.

    Attributes:
        name: unlike any other's, and the same in the plain twin, if that has the step.
        macs: of an image that comes there, with nothing skipped.
        layer: its column if gated.
        exits_before: how many early exits an image passes on the way there.

    """

    name: str
    macs: int
    layer: int | None
    last_stage: bool
    exits_before: int


def realised(time_share: float, macs_share: float) -> float | None:
    """(1 − t / t(own dense)) / (1 − gated / dense MACs); None where theory promises no gain."""
    return None if macs_share >= 1 else (1 - time_share) / (1 - macs_share)


def step_facts(plan: Plan) -> tuple[StepFacts, ...]:
    """The plan's steps in order; the last stage is that of the convolutions with the smallest maps."""
    smallest = min(convolution_of(plan, step).height for step in plan.steps if isinstance(step, Convolve))
    facts, exits = [], 0
    for step in plan.steps:
        if isinstance(step, Convolve):
            shape, layer = convolution_of(plan, step), None if step.gate is None else step.gate.layer
            facts.append(StepFacts(step.name, shape.macs, layer, shape.height == smallest, exits))
        elif isinstance(step, Exit):
            macs = step.hidden_weight.size + step.weight.size
            facts.append(StepFacts(f"Exit {step.exit}", macs, None, False, exits))
            exits += 1
        else:
            macs = step.weight.size if isinstance(step, Classify) else 0
            facts.append(StepFacts(_name(step), macs, None, False, exits))
    return tuple(facts)


def layer_figures(workload: Workload, measured: Measured) -> dict[str, Any]:
    """What each step takes, and sums over all but the last stage, whose many weights are read however few are kept.

    Own dense has no exits, and no pools before them; these count in the sums' seconds, and not in the shares of its.
    """
    facts, shape = step_facts(workload.plan), shape_of(workload.plan)
    dense_seconds = measured.profiles[OWN_DENSE].tolist()
    dense_s = dict(zip((step.name for step in step_facts(workload.dense_plan)), dense_seconds, strict=True))
    seconds = {setting.name: measured.profiles[f"{OWN} {setting.name}"] for setting in workload.settings}
    macs = {name: [_gated_macs(step, measured.counts[name], shape) for step in facts] for name in seconds}
    rows = []
    for index, step in enumerate(facts):
        dense = dense_s.get(step.name)
        settings: dict[str, dict[str, float | None]] = {}
        for name, taken in seconds.items():
            time_share = float(taken[index]) / dense if dense else None
            settings[name] = {"ms": 1000 * float(taken[index]), "time_share": time_share}
            if step.layer is not None and time_share is not None:
                skipped = shape.layer_skip_ratios(measured.counts[name].kept)[:, step.layer]
                share = realised(time_share, macs[name][index] / step.macs)
                settings[name] |= {"skip_ratio": float(skipped.mean()), "realised": share}
        rows.append({
            "step": step.name, "macs": step.macs, "last_stage": step.last_stage,
            "dense_ms": None if dense is None else 1000 * dense,
            "dense_gmacs_per_s": workload.batch * step.macs / dense / 1e9 if dense else None,
            "settings": settings,
        })  # fmt: skip
    chosen = [index for index, step in enumerate(facts) if not step.last_stage]
    shared = [facts[index] for index in chosen if facts[index].name in dense_s]
    apart = {}
    for name, taken in seconds.items():
        time_share = float(taken[chosen].sum() / sum(dense_s[step.name] for step in shared))
        macs_share = sum(macs[name][index] for index in chosen) / sum(step.macs for step in shared)
        share = realised(time_share, macs_share)
        apart[name] = {"macs_share": macs_share, "time_share": time_share, "realised": share}
    return {"layers": rows, "last_stage_apart": apart}


def _gated_macs(step: StepFacts, counts: Counts, shape: NetworkShape) -> float:
    """A step's MACs, the mean of all images: 0 for those that left before it."""
    came = float((counts.exit_index >= step.exits_before).mean())
    if step.layer is None:
        return came * step.macs
    layer = shape.layers[step.layer]
    return came * layer.gate_macs + float(counts.kept[:, step.layer].mean()) * layer.convolution.cell_macs


def _name(step: Step) -> str:
    """A network may have several pools, one of each exit and its own."""
    name = type(step).__name__
    return f"{name} {step.raw}" if isinstance(step, AveragePool) else name


def figures(workload: Workload, precision: str, measured: Measured) -> dict[str, Any]:
    """Everything that a result file holds beside provenance."""
    samples, present = measured.samples, [each for each in measured.contestants if each.absent is None]
    threads = next(each.threads for each in present if each.kind == "own")
    baselines = [each.name for each in present if each.kind == "baseline"]
    best = min(baselines, key=samples.median, default=None)
    dense = min([*baselines, OWN_DENSE], key=samples.median)
    shape = shape_of(workload.plan)
    result: dict[str, Any] = {
        "model": workload.name,
        "digest": workload.digest,
        "architecture": workload.architecture.to_json(),
        "source": workload.images.source,
        "images": len(workload.images.images),
        "batch": workload.batch,
        "threads": threads,
        "precision": precision,
        "rounds": len(samples.seconds[OWN_DENSE]),
        "runs_per_turn": samples.runs_per_turn,
        "dense_macs": shape.dense,
        "gate_macs": shape.gates,
        "best_baseline": best,
        "best_dense": dense,
        "contestants": [contestant_row(each, samples, best) for each in measured.contestants],
        "settings": [
            _setting(setting.name, setting.wanted, shape, measured, best, dense) for setting in workload.settings
        ],
        "scaling": _scaling(present, samples, threads),
    }
    if measured.profiles:
        result |= layer_figures(workload, measured)
    return result


def contestant_row(contestant: Contestant, samples: Samples, best: str | None) -> dict[str, Any]:
    """A contestant's times, and its speed against the best baseline."""
    names = ("name", "kind", "threads", "absent")
    row = {name: getattr(contestant, name) for name in names}
    if contestant.absent is not None:
        return row
    speed = None if best is None else 1 / samples.ratio(contestant.name, best)
    return row | samples.figures(contestant.name) | {"speed_against_best_baseline": speed}


def _setting(
    name: str, wanted: float | None, shape: NetworkShape, measured: Measured, best: str | None, dense: str
) -> dict[str, Any]:
    samples, counts, contestant = measured.samples, measured.counts[name], f"{OWN} {name}"
    gated = float(shape.gated(counts.kept, counts.exit_index).mean())
    time_share, macs_share = samples.ratio(contestant, OWN_DENSE), gated / shape.dense
    return {
        "name": name,
        "skip_wanted": wanted,
        "skip_reached": float(shape.skip_ratio(counts.kept).mean()),
        "skip_spread": float(shape.skip_ratio(counts.kept).std()),
        "left_early": float((counts.exit_index < len(shape.exits)).mean()) if shape.exits else None,
        "gated_macs": gated,
        "executed_macs": float(counts.executed.mean()),
        "macs_share": macs_share,
        "time_share": time_share,
        "saving_in_theory": 1 - macs_share,
        "saving": 1 - time_share,
        "saving_against_best_baseline": None if best is None else 1 - samples.ratio(contestant, best),
        "realised": realised(time_share, macs_share),
        "speed_up_against_own_dense": 1 / time_share,
        "speed_up_against_best_dense": 1 / samples.ratio(contestant, dense),
        "speed_up_against_best_baseline": None if best is None else 1 / samples.ratio(contestant, best),
    }


def _scaling(present: Sequence[Contestant], samples: Samples, main: int) -> list[dict[str, Any]]:
    """How many times as fast each own contestant is with more threads, paired round by round."""
    rows = []
    for contestant in present:
        if contestant.kind == "own" and contestant.threads != main:
            name = contestant.name.rsplit(",", 1)[0]
            ratio = samples.ratio(contestant.name, name)
            fewer, more = sorted((contestant.threads, main))
            speed_up = ratio if contestant.threads < main else 1 / ratio
            rows.append({"name": name, "from": fewer, "to": more, "speed_up": speed_up})
    return rows


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
        if self.precision not in ("fp32", "bf16", "int8"):
            raise LcclError(f"unknown precision {self.precision!r}: use fp32, bf16 or int8")


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
    others = (baselines_beside(options.precision) if gpu is None else gpus.BASELINES) if options.baselines else ()
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
