"""The committed measurements on the CPU: own engine and the fastest dense ones, held against the goals.

    python -m benchmarks.cpu [NAME ...] [--images DATA] [--rounds N]

Without names all are run. Each writes benchmarks/results/cpu/<name>.json; the summary at the end reads all of
them that are there. DATA is a data set as for ``lccl train``; images are drawn where there is none.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import results
from lccl.bench.images import Images, choose, noise_images, read_images
from lccl.bench.report import showing, tables
from lccl.bench.run import Options, run
from lccl.bench.workload import Model, find_model, images_needed, make_workload
from lccl.data import Dataset

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"
PAPER = {"resnet18": 0.205, "resnet34": 0.181}

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One result file: a model, a batch and the skip ratios wanted."""

    name: str
    model: str
    batch: int
    skip: tuple[float, ...]
    options: Options


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure of one measurement, and what it should at least be."""

    measurement: str
    what: str
    least: float
    read: Callable[[Figures], float]


def _measurements() -> dict[str, Measurement]:
    usual = (0.35, 0.5, 0.7)
    two = Options(threads=2)
    bf16 = replace(two, precision="bf16")
    scaling = replace(two, scaling=(1,), baselines=False, layers=False)
    one = Options(threads=1)
    shipped = "models/resnet20-cifar10"
    listed = [
        Measurement("resnet18-b1-fp32", "resnet18", 1, usual, two),
        Measurement("resnet18-b8-fp32", "resnet18", 8, usual, two),
        Measurement("resnet18-b1-bf16", "resnet18", 1, usual, bf16),
        Measurement("resnet20-b1-fp32", "resnet20", 1, (0.5,), two),
        Measurement("resnet20-b32-fp32", "resnet20", 32, (0.5,), two),
        Measurement("resnet20-b32-bf16", "resnet20", 32, (0.5,), bf16),
        Measurement("shipped-b32-fp32", shipped, 32, (0.5,), two),
        Measurement("resnet18-b1-threads", "resnet18", 1, (0.5,), scaling),
        Measurement("resnet20-b32-threads", "resnet20", 32, (0.5,), scaling),
        Measurement("paper-resnet18", "resnet18", 1, (0.382,), one),
        Measurement("paper-resnet34", "resnet34", 1, (0.264,), one),
    ]
    return {measurement.name: measurement for measurement in listed}


MEASUREMENTS = _measurements()


def _goals() -> tuple[Goal, ...]:
    goals = [
        Goal(name, "own dense / best baseline", least, _own_dense)
        for name, least in (
            ("resnet18-b1-fp32", 1.0), ("resnet18-b8-fp32", 1.0), ("resnet20-b1-fp32", 1.5), ("resnet20-b32-fp32", 1.1)
        )
    ]  # fmt: skip
    goals += [
        Goal("resnet18-b8-fp32", f"realised at {skip}", least, _of_setting(skip, "realised"))
        for skip, least in (("0.35", 0.95), ("0.5", 0.95), ("0.7", 0.9))
    ]
    goals += [
        Goal(name, f"speed-up / best dense at {skip}", least, _of_setting(skip, "speed_up_against_best_dense"))
        for name, skip, least in (
            ("resnet18-b1-fp32", "0.35", 1.4), ("resnet18-b1-fp32", "0.5", 1.7), ("resnet18-b1-fp32", "0.7", 2.4),
            ("resnet18-b1-bf16", "0.35", 1.2), ("resnet18-b1-bf16", "0.5", 1.5), ("resnet18-b1-bf16", "0.7", 2.0),
            ("resnet20-b32-fp32", "0.5", 1.7), ("resnet20-b32-bf16", "0.5", 1.3),
        )
    ]  # fmt: skip
    goals += [
        Goal(name, f"2 threads / 1, {who}", least, _scaling(who))
        for name, least in (("resnet18-b1-threads", 1.8), ("resnet20-b32-threads", 1.9))
        for who in ("own dense", "LCCL 0.5")
    ]
    for name, skip, least in (("paper-resnet18", "0.382", 0.33), ("paper-resnet34", "0.264", 0.236)):
        goals.append(Goal(name, "time saved / own dense", least, _of_setting(skip, "saving")))
        goals.append(Goal(name, "time saved / best baseline", least, _of_setting(skip, "saving_against_best_baseline")))
    return tuple(goals)


def main() -> None:
    """Measure what is named, write a file each, and print goals beside what was reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(MEASUREMENTS)}")
    parser.add_argument("--images", type=Path, default=DATA if DATA.exists() else None)
    parser.add_argument("--rounds", type=int, default=Options(1).rounds)
    options = parser.parse_args()
    strange = sorted(set(options.names) - set(MEASUREMENTS))
    if strange:
        parser.error(f"no measurement {', '.join(strange)}: use {', '.join(MEASUREMENTS)}")
    torch.set_num_threads(2)
    console = Console()
    read: dict[int, Dataset] = {}
    for name in options.names or MEASUREMENTS:
        measurement = MEASUREMENTS[name]
        model = find_model(str(ROOT / measurement.model) if "/" in measurement.model else measurement.model)
        images = _images(model, options.images, measurement.batch, read)
        with console.status(f"{name}: thresholds"):
            workload = make_workload(model, images, measurement.batch, measurement.skip)
        with showing(console) as stages:
            made = run(workload, replace(measurement.options, rounds=options.rounds), stages)
        for table in tables(made):
            console.print(table, "")
        command = f"python -m benchmarks.cpu {name} --rounds {options.rounds}"
        if options.images is not None:
            command += f" --images {options.images.name}"
        console.print(results.write(f"cpu/{name}", command, made))
    _summary(console)


def _images(model: Model, path: Path | None, batch: int, read: dict[int, Dataset]) -> Images:
    """Images for a model; a data set is read once for each input size that it can fill."""
    count, preprocessing = images_needed(model, batch), model.preprocessing
    if path is None:
        return noise_images(count, preprocessing.size)
    if preprocessing.size not in read:
        read[preprocessing.size] = read_images(path, preprocessing)
    return choose(read[preprocessing.size], path.name, preprocessing, count)


def reached() -> list[tuple[Goal, float]]:
    """Each goal whose result file is there, with the figure in it."""
    found = []
    for goal in _goals():
        file = results.FOLDER / "cpu" / f"{goal.measurement}.json"
        if file.exists():
            found.append((goal, goal.read(json.loads(file.read_text(encoding="utf-8")))))
    return found


def _summary(console: Console) -> None:
    table = Table(title="Goals and what was reached", title_justify="left", box=None, header_style="bold")
    for column in ("measurement", "figure", "goal", "reached", ""):
        table.add_column(column, justify="right" if column in ("goal", "reached") else "left")
    for goal, figure in reached():
        verdict = "[green]reached" if figure >= goal.least else "[red]missed"
        table.add_row(goal.measurement, goal.what, f"≥ {goal.least:g}", f"{figure:.3f}", verdict)
    console.print(table)
    for network, measured in PAPER.items():
        file = results.FOLDER / "cpu" / f"paper-{network}.json"
        if file.exists():
            row = json.loads(file.read_text(encoding="utf-8"))["settings"][-1]
            console.print(
                f"{network}, skip ratio {row['skip_reached']:.3f}: theory saves {row['saving_in_theory']:.1%}, "
                f"here {row['saving']:.1%} of own dense's time is saved, the paper saved {measured:.1%}"
            )


def _own_dense(made: Figures) -> float:
    return float(next(row["speed_against_best_baseline"] for row in made["contestants"] if row["name"] == "own dense"))


def _of_setting(name: str, figure: str) -> Callable[[Figures], float]:
    return lambda made: next(row[figure] for row in made["settings"] if row["name"] == name)


def _scaling(name: str) -> Callable[[Figures], float]:
    return lambda made: next(row["speed_up"] for row in made["scaling"] if row["name"] == name)


if __name__ == "__main__":
    main()
