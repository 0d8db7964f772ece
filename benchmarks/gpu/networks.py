"""Whole networks: own dense and own at several skip ratios beside the fastest dense network, in one run.

Weights are fresh, and thresholds chosen so that each layer skips the share that is asked for; every figure uses the
ratio that was reached on the timed images. All start from uint8 pixels and end with logits: device time from device
memory to device memory under a CUDA graph, end to end from the host's memory to the host's.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from lccl.bench.gpu import Gpu
from lccl.bench.report import new_table
from lccl.bench.run import Options, Stages, run
from lccl.bench.workload import OWN, find_images, find_model, make_workload
from lccl.errors import LcclError

SKIP = (0.5, 0.3, 0.7)

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A network at one batch size."""

    network: str
    batch: int

    @property
    def name(self) -> str:
        return f"{self.network} b{self.batch}"


# In the order of what is to be known first, for a lease may end.
CASES = (
    Case("resnet18", 256), Case("wrn-28-10", 256), Case("resnet20", 1), Case("resnet20", 64), Case("resnet34", 256),
    Case("resnet18", 32), Case("wrn-28-10", 32), Case("resnet34", 32), Case("resnet110", 1), Case("resnet110", 64),
)  # fmt: skip


def measure_all(
    cases: Sequence[Case], gpu: Gpu, rounds: int, stages: Stages, keep: Callable[[Figures], None]
) -> Figures:
    """Measure cases in turn; one that fails is noted, one that no time is left for too. ``keep`` sees each result.

    Nothing begins after ``gpu.until``; each case may compile baselines in its share of the time until then.
    """
    made: Figures = {"cases": [], "not_measured": {}}
    for number, case in enumerate(cases):
        now = time.monotonic()
        if now > gpu.until:
            made["not_measured"][case.name] = "no time was left"
            continue
        share = replace(gpu, until=now + (gpu.until - now) / (len(cases) - number))
        try:
            model = find_model(case.network)
            workload = make_workload(model, find_images(model, None, case.batch), case.batch, SKIP)
            made["cases"].append({"case": case.name, **run(workload, Options(rounds=rounds), stages, share)})
        except (LcclError, RuntimeError) as error:  # RuntimeError: of the device
            made["not_measured"][case.name] = f"{type(error).__name__}: {error}"[:500]
        gc.collect()
        keep(made)
    return made


def show(made: Figures, console: Console) -> None:
    """A line for each case: times, and own against the best dense network."""
    at = [f"{OWN} {skip:g}" for skip in sorted(SKIP)]
    columns = ("case", "ms", "own dense ms", "×", *(f"× at {skip:g}" for skip in sorted(SKIP)), "realised 0.5", "best")
    table = new_table("Networks, device time", *columns)
    for case in made["cases"]:
        rows = {row["name"]: row for row in case["contestants"]}
        realised = next(row["realised"] for row in case["settings"] if row["name"] == "0.5")
        best, dense = case["best_baseline"], rows["own dense"]
        speeds = [row["speed_against_best_baseline"] for row in (dense, *(rows[name] for name in at))]
        table.add_row(
            case["case"], f"{rows[best]['median_ms']:.3f}" if best else "", f"{dense['median_ms']:.3f}",
            *("" if speed is None else f"{speed:.2f}" for speed in speeds), f"{realised:.3f}", best,
        )  # fmt: skip
    console.print(table)
    for name, why in made["not_measured"].items():
        console.print(f"[red]{name} was not measured: {why}", markup=True)
