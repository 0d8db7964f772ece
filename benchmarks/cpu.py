"""The committed measurements on the CPU: own engine and the fastest dense ones, held against the goals.

    python -m benchmarks.cpu [NAME ...] [--images DATA] [--rounds N]

Without names all are run that the CPU can run. Each writes benchmarks/results/cpu/<name>.json; the summary at the end
reads all of them that are there. DATA is a data set as for ``lccl train``; images are drawn where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import goals, results
from lccl.bench.images import Images, choose, noise_images, read_images
from lccl.bench.report import showing, tables
from lccl.bench.run import Options, run
from lccl.bench.workload import Model, find_model, images_needed, make_workload
from lccl.engines.cpu.engine import instruction_sets

PAPER = {"resnet18": 0.205, "resnet34": 0.181}


@dataclass(frozen=True, slots=True)
class Measurement:
    """One result file: a model, a batch and the skip ratios wanted, on a CPU with AMX where that is said."""

    name: str
    model: str
    batch: int
    skip: tuple[float, ...]
    options: Options
    amx: bool = False

    @property
    def runs_here(self) -> bool:
        """Whether this CPU has what is to be measured."""
        return not self.amx or ("amx", self.options.precision) in instruction_sets()


USUAL = (0.35, 0.5, 0.7)
ONE, TWO = Options(threads=1), Options(threads=2)
BF16, INT8 = replace(TWO, precision="bf16"), replace(TWO, precision="int8")
SCALING = replace(TWO, scaling=(1,), baselines=False, layers=False)
MEASUREMENTS = {
    measurement.name: measurement
    for measurement in (
        Measurement("resnet18-b1-fp32", "resnet18", 1, USUAL, TWO),
        Measurement("resnet18-b8-fp32", "resnet18", 8, USUAL, TWO),
        Measurement("resnet18-b1-bf16", "resnet18", 1, USUAL, BF16),
        Measurement("resnet18-b1-int8", "resnet18", 1, USUAL, INT8),
        Measurement("resnet18-b8-int8", "resnet18", 8, USUAL, INT8),
        Measurement("resnet20-b1-fp32", "resnet20", 1, (0.5,), TWO),
        Measurement("resnet20-b32-fp32", "resnet20", 32, (0.5,), TWO),
        Measurement("resnet20-b32-bf16", "resnet20", 32, (0.5,), BF16),
        Measurement("resnet20-b1-int8", "resnet20", 1, (0.5,), INT8),
        Measurement("resnet20-b32-int8", "resnet20", 32, (0.5,), INT8),
        Measurement("shipped-b32-fp32", str(results.HOME / "models" / "resnet20-cifar10"), 32, (0.5,), TWO),
        Measurement("resnet18-b1-int8-amx", "resnet18", 1, USUAL, INT8, amx=True),
        Measurement("resnet18-b8-int8-amx", "resnet18", 8, USUAL, INT8, amx=True),
        Measurement("resnet18-b8-bf16-amx", "resnet18", 8, USUAL, BF16, amx=True),
        Measurement("resnet20-b32-int8-amx", "resnet20", 32, (0.5,), INT8, amx=True),
        Measurement("resnet18-b1-threads", "resnet18", 1, (0.5,), SCALING),
        Measurement("resnet20-b32-threads", "resnet20", 32, (0.5,), SCALING),
        Measurement("paper-resnet18", "resnet18", 1, (0.382,), ONE),
        Measurement("paper-resnet34", "resnet34", 1, (0.264,), ONE),
        Measurement("paper-resnet18-int8", "resnet18", 1, (0.382,), replace(ONE, precision="int8")),
        Measurement("paper-resnet34-int8", "resnet34", 1, (0.264,), replace(ONE, precision="int8")),
    )
}


def main() -> None:
    """Measure what is named, write a file each, and print goals beside what was reached."""
    parser = results.command_line(
        __doc__,
        results.argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(MEASUREMENTS)}"),
        results.argument("--images", type=Path, default=results.usual_data()),
        results.argument("--rounds", type=int, default=Options().rounds),
    )
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(MEASUREMENTS))
    if unknown:
        parser.error(f"no measurement {', '.join(unknown)}: use {', '.join(MEASUREMENTS)}")
    lacking = [name for name in options.names if not MEASUREMENTS[name].runs_here]
    if lacking:
        parser.error(f"this CPU has no AMX, which {', '.join(lacking)} measures")
    torch.set_num_threads(2)
    console = Console()
    for name in options.names or (name for name, measurement in MEASUREMENTS.items() if measurement.runs_here):
        measurement = MEASUREMENTS[name]
        model = find_model(measurement.model, precision=measurement.options.precision)
        images = _images(model, options.images, measurement.batch)
        with console.status(f"{name}: thresholds"):
            workload = make_workload(model, images, measurement.batch, measurement.skip)
        with showing(console) as stages:
            made = run(workload, replace(measurement.options, rounds=options.rounds), stages)
        for table in tables(made):
            console.print(table, "")
        console.print(results.write(f"cpu/{name}", made))
    _summary(console)


def _images(model: Model, path: Path | None, batch: int) -> Images:
    count, preprocessing = images_needed(model, batch), model.preprocessing
    if path is None:
        return noise_images(count, preprocessing.size)
    return choose(_read(path, preprocessing), path.name, preprocessing, count)


_read = cache(read_images)  # once for each input size that a data set can fill


def measured() -> dict[str, dict[str, Any]]:
    """The result files that are there, by measurement."""
    files = {name: results.read(f"cpu/{name}") for name in MEASUREMENTS}
    return {name: made for name, made in files.items() if made is not None}


def _summary(console: Console) -> None:
    found = measured()
    goals.show((goal for goal in goals.on_cpu(found) if goal.figure is not None), console)
    for network, published in PAPER.items():
        if f"paper-{network}" in found:
            row = found[f"paper-{network}"]["settings"][-1]
            console.print(
                f"{network}, skip ratio {row['skip_reached']:.3f}: theory saves {row['saving_in_theory']:.1%}, "
                f"here {row['saving']:.1%} of own dense's time is saved, the paper saved {published:.1%}"
            )


if __name__ == "__main__":
    main()
