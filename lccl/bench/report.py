"""From samples to figures, and from figures to tables; all arithmetic of the benchmark is here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from lccl.bench.child import OWN, OWN_DENSE
from lccl.bench.measure import Contestant, Samples
from lccl.bench.workload import OPEN, Counts, Workload
from lccl.networks.lowering import lower
from lccl.plan.geometry import NetworkShape, convolution_of, shape_of
from lccl.plan.steps import AveragePool, Classify, Convolve, Exit, Plan, Step

QUANTILES = (0.5, 0.2, 0.8)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A line of the comparison; ``contestant`` is None where it is absent, and ``absent`` says why."""

    name: str
    kind: Literal["baseline", "own"]
    threads: int
    contestant: Contestant | None
    absent: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """All that was measured.

    Attributes:
        entries: own ones with the main number of threads come before those with others.
        counts: by setting.
        profiles: seconds of each step, float64 [steps], by contestant; empty where no steps were timed.

    """

    entries: tuple[Entry, ...]
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
    found, exits = [], 0
    for step in plan.steps:
        if isinstance(step, Convolve):
            shape, layer = convolution_of(plan, step), None if step.gate is None else step.gate.layer
            found.append(StepFacts(step.name, shape.macs, layer, shape.height == smallest, exits))
        elif isinstance(step, Exit):
            macs = step.hidden_weight.size + step.weight.size
            found.append(StepFacts(f"Exit {step.exit}", macs, None, False, exits))
            exits += 1
        else:
            macs = step.weight.size if isinstance(step, Classify) else 0
            found.append(StepFacts(_name(step), macs, None, False, exits))
    return tuple(found)


def figures(workload: Workload, precision: str, threads: int, measured: Measured) -> dict[str, Any]:
    """Everything that a result file holds beside provenance; ``threads`` is the main number of threads."""
    samples, entries = measured.samples, [entry for entry in measured.entries if entry.contestant is not None]
    baselines = [entry.name for entry in entries if entry.kind == "baseline"]
    best = min(baselines, key=samples.median, default=None)
    dense = min([*baselines, OWN_DENSE], key=samples.median)
    shape = shape_of(lower(workload.network, workload.preprocessing))
    made: dict[str, Any] = {
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
        "contestants": [_contestant(entry, samples, best) for entry in measured.entries],
        "settings": [
            _setting(setting.name, setting.wanted, shape, measured, best, dense) for setting in workload.settings
        ],
        "scaling": _scaling(entries, samples, threads),
    }
    if measured.profiles:
        facts = step_facts(lower(workload.network, workload.preprocessing))
        names = [setting.name for setting in workload.settings]
        twin = (step.name for step in step_facts(lower(workload.twin, workload.preprocessing)))
        seconds = dict(zip(twin, measured.profiles[OWN_DENSE].tolist(), strict=True))
        made["layers"] = _layers(facts, seconds, names, shape, measured, workload.batch)
        made["last_stage_apart"] = _last_stage_apart(facts, seconds, names, shape, measured)
    return made


def tables(made: Mapping[str, Any]) -> list[Table]:
    """Figures as tables: end to end, by skip ratio, scaling over threads, and layer by layer."""
    found = [_end_to_end(made), _by_skip_ratio(made)]
    if made["scaling"]:
        found.append(_table("Threads", "contestant", "from", "to", "times as fast"))
        for row in made["scaling"]:
            found[-1].add_row(row["name"], str(row["from"]), str(row["to"]), f"{row['speed_up']:.2f}")
    if "layers" in made:
        found.append(_by_layer(made))
    return found


@contextmanager
def showing(console: Console) -> Iterator[StagesShown]:
    """Show the stages of a benchmark as progress bars while it runs."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        yield StagesShown(progress)


@dataclass(frozen=True, slots=True)
class StagesShown:
    """Stages as lines of a rich progress display."""

    progress: Progress

    def begin(self, what: str, turns: int) -> Callable[[], None]:
        """Show a new line of ``turns`` turns; call what is returned after each."""
        task = self.progress.add_task(what, total=turns)
        return lambda: self.progress.advance(task)


def _contestant(entry: Entry, samples: Samples, best: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"name": entry.name, "kind": entry.kind, "threads": entry.threads, "absent": entry.absent}
    if entry.contestant is None:
        return row
    median, low, high = (1000 * value for value in samples.quantiles(entry.name, QUANTILES))
    speed = None if best is None else 1 / samples.ratio(entry.name, best)
    return row | {"median_ms": median, "p20_ms": low, "p80_ms": high, "speed_against_best_baseline": speed}


def _setting(
    name: str, wanted: float | None, shape: NetworkShape, measured: Measured, best: str | None, dense: str
) -> dict[str, Any]:
    samples, counts, contestant = measured.samples, measured.counts[name], f"{OWN} {name}"
    gated = float(shape.gated(counts.kept, counts.exit).mean())
    time_share, macs_share = samples.ratio(contestant, OWN_DENSE), gated / shape.dense
    return {
        "name": name,
        "skip_wanted": wanted,
        "skip_reached": float(shape.skip_ratio(counts.kept).mean()),
        "skip_spread": float(shape.skip_ratio(counts.kept).std()),
        "left_early": float((counts.exit < len(shape.exits)).mean()) if shape.exits else None,
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


def _scaling(entries: list[Entry], samples: Samples, main: int) -> list[dict[str, Any]]:
    """How many times as fast each own contestant is with more threads, paired round by round."""
    rows = []
    for entry in entries:
        if entry.kind == "own" and entry.threads != main:
            name = entry.name.rsplit(",", 1)[0]
            ratio = samples.ratio(entry.name, name)
            fewer, more = sorted((entry.threads, main))
            speed_up = ratio if entry.threads < main else 1 / ratio
            rows.append({"name": name, "from": fewer, "to": more, "speed_up": speed_up})
    return rows


def _layers(
    facts: tuple[StepFacts, ...],
    dense_seconds: Mapping[str, float],
    settings: list[str],
    shape: NetworkShape,
    measured: Measured,
    batch: int,
) -> list[dict[str, Any]]:
    rows = []
    for index, step in enumerate(facts):
        dense = dense_seconds.get(step.name)  # exits, and the pools before them, are not in the plain twin
        row: dict[str, Any] = {
            "step": step.name,
            "macs": step.macs,
            "last_stage": step.last_stage,
            "dense_ms": None if dense is None else 1000 * dense,
            "dense_gmacs_per_s": batch * step.macs / dense / 1e9 if dense else None,
            "settings": {},
        }
        for name in settings:
            seconds, counts = float(measured.profiles[f"{OWN} {name}"][index]), measured.counts[name]
            time_share = seconds / dense if dense else None
            entry: dict[str, Any] = {"ms": 1000 * seconds, "time_share": time_share}
            if step.layer is not None and time_share is not None:
                macs_share = _gated_macs(step, shape, counts) / step.macs
                entry["skip_ratio"] = float(shape.layer_skip_ratios(counts.kept)[:, step.layer].mean())
                entry["realised"] = realised(time_share, macs_share)
            row["settings"][name] = entry
        rows.append(row)
    return rows


def _last_stage_apart(
    facts: tuple[StepFacts, ...],
    dense_seconds: Mapping[str, float],
    settings: list[str],
    shape: NetworkShape,
    measured: Measured,
) -> dict[str, Any]:
    """Sums over all steps but the last stage's, whose many weights are read however few positions are kept."""
    chosen = [index for index, step in enumerate(facts) if not step.last_stage]
    shared = [facts[index] for index in chosen if facts[index].name in dense_seconds]
    seconds, macs = sum(dense_seconds[step.name] for step in shared), sum(step.macs for step in shared)
    found = {}
    for name in settings:
        counts = measured.counts[name]
        time_share = float(measured.profiles[f"{OWN} {name}"][chosen].sum() / seconds)
        macs_share = sum(_gated_macs(facts[index], shape, counts) for index in chosen) / macs
        found[name] = {
            "macs_share": macs_share,
            "time_share": time_share,
            "realised": realised(time_share, macs_share),
        }
    return found


def _gated_macs(step: StepFacts, shape: NetworkShape, counts: Counts) -> float:
    """A step's MACs, the mean of all images: 0 for those that left before it."""
    came = float((counts.exit >= step.exits_before).mean())
    if step.layer is None:
        return came * step.macs
    layer = shape.layers[step.layer]
    return came * layer.gate_macs + float(counts.kept[:, step.layer].mean()) * layer.convolution.cell_macs


def _name(step: Step) -> str:
    """A network may have several pools, one of each exit and its own."""
    name = type(step).__name__
    return f"{name} {step.raw}" if isinstance(step, AveragePool) else name


def _end_to_end(made: Mapping[str, Any]) -> Table:
    table = _table(
        f"{made['model']}, batch {made['batch']}, {made['precision']}, threads {made['threads']}, {made['images']}",
        "contestant", "median ms", "p20", "p80", "speed / best baseline",
    )  # fmt: skip
    for row in made["contestants"]:
        if row["absent"] is not None:
            table.add_row(row["name"], f"[dim]{row['absent']}")
        else:
            times = (f"{row[key]:.3f}" for key in ("median_ms", "p20_ms", "p80_ms"))
            table.add_row(row["name"], *times, _or_dash(row["speed_against_best_baseline"], ".2f"))
    return table


def _by_skip_ratio(made: Mapping[str, Any]) -> Table:
    table = _table(
        f"dense {made['dense_macs'] / 1e6:.1f} M MACs; best dense: {made['best_dense']}",
        "wanted", "skipped", "left early", "gated MACs / dense", "executed / dense", "time / own dense", "realised",
        "speed-up / own dense", "/ best dense", "/ best baseline",
    )  # fmt: skip
    for row in made["settings"]:
        table.add_row(
            row["name"], f"{row['skip_reached']:.3f}", _or_dash(row["left_early"], ".3f"), f"{row['macs_share']:.3f}",
            f"{row['executed_macs'] / made['dense_macs']:.3f}", f"{row['time_share']:.3f}",
            _or_dash(row["realised"], ".2f"), f"{row['speed_up_against_own_dense']:.2f}",
            f"{row['speed_up_against_best_dense']:.2f}", _or_dash(row["speed_up_against_best_baseline"], ".2f"),
        )  # fmt: skip
    return table


def _by_layer(made: Mapping[str, Any]) -> Table:
    closed = [row["name"] for row in made["settings"] if row["name"] != OPEN]
    columns = [column for name in closed for column in (f"t({name})", "skipped", "realised")]
    table = _table("Layers: times are shares of own dense", "step", "M MACs", "dense ms", "GMAC/s", "t(−∞)", *columns)
    for row in made["layers"]:
        cells = []
        for name in closed:
            entry = row["settings"][name]
            cells += [
                _or_dash(entry["time_share"], ".2f"), _or_dash(entry.get("skip_ratio"), ".3f"),
                _or_dash(entry.get("realised"), ".2f"),
            ]  # fmt: skip
        table.add_row(
            row["step"], f"{row['macs'] / 1e6:.2f}", _or_dash(row["dense_ms"], ".3f"),
            _or_dash(row["dense_gmacs_per_s"] if row["macs"] else None, ".1f"),
            _or_dash(row["settings"][OPEN]["time_share"], ".2f"), *cells,
        )  # fmt: skip
    apart, cells = made["last_stage_apart"], []
    for name in closed:
        cells += [f"{apart[name]['time_share']:.2f}", "", _or_dash(apart[name]["realised"], ".2f")]
    table.add_section()
    table.add_row("last stage apart", "", "", "", f"{apart[OPEN]['time_share']:.2f}", *cells)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
