"""One benchmark from a workload to its figures: start the contestants, measure them in turns, count, profile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lccl.bench.child import OWN, OWN_DENSE, AbsentError, Child, Task, save_workload
from lccl.bench.measure import Contestant, measure, profile, profile_turns
from lccl.bench.report import Entry, Measured, figures
from lccl.bench.workload import DENSE, TOLERANCE, Counts, Workload
from lccl.errors import LcclError
from lccl.networks.lowering import lower
from lccl.plan.geometry import shape_of

PROFILE_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Options:
    """How a workload is measured.

    Attributes:
        threads: of every contestant.
        scaling: further numbers of threads that own engines are measured with, in the same rounds.
        baselines: whether others' engines take part.
        layers: whether each step is timed too.

    """

    threads: int
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


class Stages(Protocol):
    """Where progress goes: ``begin`` names a stage and its number of turns, and returns what to call after each."""

    def begin(self, what: str, turns: int) -> Callable[[], None]: ...


def run(workload: Workload, options: Options, stages: Stages) -> dict[str, Any]:
    """Measure a workload and return its figures, ready for JSON and for :func:`lccl.bench.report.tables`.

    Raises:
        LcclError: an own engine cannot be built or computes something else. A baseline that is not to be had
            is named in the figures instead.

    """
    with TemporaryDirectory(prefix="lccl-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        save_workload(workload, folder)
        entries, own = _contestants(workload, options, folder, stages, stack)
        present = [entry.contestant for entry in entries if entry.contestant is not None]
        samples = measure(present, options.rounds, stages.begin("measuring", options.rounds * len(present)))
        settings = [contestant for contestant in own if contestant.setting != DENSE]
        advance = stages.begin("counting", len(settings))
        counts = {contestant.setting: _count(workload, contestant, advance) for contestant in settings}
        profiles: dict[str, NDArray[np.float64]] = {}
        if options.layers:
            turns = profile_turns(workload.batches) * len(own)
            profiles = profile(own, workload.batches, PROFILE_REPEATS, stages.begin("profiling", turns))
    return figures(workload, options.precision, options.threads, Measured(tuple(entries), samples, counts, profiles))


def _contestants(
    workload: Workload, options: Options, folder: Path, stages: Stages, stack: ExitStack
) -> tuple[list[Entry], list[Contestant]]:
    """All entries, those that are absent too, and own contestants with the main number of threads."""
    threads = tuple(dict.fromkeys((options.threads, *options.scaling)))
    names = _baseline_names() if options.baselines else []
    advance = stages.begin("starting", len(names) + 2 * len(threads))
    entries: list[Entry] = []

    def start(contestant: str, count: int) -> Child:
        child = Child(Task(str(folder), contestant, count, options.precision))
        stack.callback(child.close)
        return child

    for name in names:
        try:
            contestant = Contestant(name, start(name, options.threads), DENSE)
            entries.append(Entry(name, "baseline", options.threads, contestant))
        except AbsentError as error:
            entries.append(Entry(name, "baseline", options.threads, None, str(error)))
        advance()
    for count in threads:
        for which in (OWN_DENSE, OWN):
            try:
                child = start(which, count)
            except AbsentError as error:
                raise LcclError(f"{which} cannot be measured: {error}") from error
            settings = [DENSE] if which == OWN_DENSE else [setting.name for setting in workload.settings]
            for setting in settings:
                name = which if which == OWN_DENSE else f"{OWN} {setting}"
                if count != options.threads:
                    name += f", {count} thread" + "s" * (count > 1)
                entries.append(Entry(name, "own", count, Contestant(name, child, setting)))
            advance()
    own = [entry.contestant for entry in entries if entry.kind == "own" and entry.threads == options.threads]
    return entries, [contestant for contestant in own if contestant is not None]


def _baseline_names() -> list[str]:
    from lccl.bench.baselines import BASELINES

    return list(BASELINES)


def _count(workload: Workload, contestant: Contestant, advance: Callable[[], None]) -> Counts:
    """What the engine itself kept and executed, checked against the reference's count.

    Raises:
        LcclError: it skips another share of a layer than the reference does.

    """
    counts = contestant.child.count(contestant.setting)
    shape = shape_of(lower(workload.network, workload.preprocessing))
    expected = next(setting.kept for setting in workload.settings if setting.name == contestant.setting)
    off = np.abs(shape.layer_skip_ratios(counts.kept).mean(0) - shape.layer_skip_ratios(expected).mean(0))
    if off.max() > TOLERANCE:
        layer = shape.layers[int(off.argmax())].name
        raise LcclError(f"{contestant.name} skips {off.max():.3f} more or less of {layer} than the reference engine")
    advance()
    return counts
