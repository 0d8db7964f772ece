"""What the engines should reach on the CPU and on a GPU, and what result files say that they did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from lccl.bench.report import new_table

Figures = dict[str, Any]
Read = Callable[[Figures], float | None]

AT = "0.5"  # the skip ratio that goals on a GPU are set at
KERNEL_RATE = 0.9
COMPILED = "torch.compile"


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure of one measurement, what it should at least be, and what it is; None where it was not measured."""

    measurement: str
    what: str
    least: float
    figure: float | None

    @property
    def reached(self) -> bool:
        """Whether it was measured, and is high enough."""
        return self.figure is not None and self.figure >= self.least


def show(goals: Iterable[Goal], console: Console) -> None:
    """A line per goal."""
    table = new_table("Goals and what was reached", "measurement", "figure", "goal", "reached", "")
    for goal in goals:
        figure = "" if goal.figure is None else f"{goal.figure:.3f}"
        verdict = "not measured" if goal.figure is None else "[green]reached" if goal.reached else "[red]missed"
        table.add_row(goal.measurement, goal.what, f"≥ {goal.least:g}", figure, verdict)
    console.print(table)


def on_cpu(measured: dict[str, Figures]) -> list[Goal]:
    """The goals on the CPU, with the figures of those measurements that are there."""
    return list(_read(_wanted_on_cpu(), measured))


def on_gpu(kernels: Figures | None, networks: Figures | None) -> list[Goal]:
    """The goals on a GPU, with the figures of the two result files as far as they are there."""
    rows = [] if kernels is None else kernels["all_rows"]
    rates = [Goal(row["layer"], "convolution's rate / cuDNN", KERNEL_RATE, row["rate_against_cudnn"]) for row in rows]
    rates = rates or [Goal("all layers", "convolution's rate / cuDNN", KERNEL_RATE, None)]
    cases = {} if networks is None else {case["case"]: case for case in networks["cases"]}
    return [*rates, *_read(_wanted_on_gpu(), cases)]


def _read(wanted: Iterable[tuple[str, str, float, Read]], measured: dict[str, Figures]) -> Iterator[Goal]:
    for name, what, least, read in wanted:
        yield Goal(name, what, least, read(measured[name]) if name in measured else None)


def _wanted_on_cpu() -> Iterator[tuple[str, str, float, Read]]:
    dense = {"resnet18-b1-fp32": 1.0, "resnet18-b8-fp32": 1.0, "resnet20-b1-fp32": 1.5, "resnet20-b32-fp32": 1.1}
    for name, least in dense.items():
        yield name, "own dense / best baseline", least, own_dense
    for skip, least in (("0.35", 0.95), ("0.5", 0.95), ("0.7", 0.9)):
        yield "resnet18-b8-fp32", f"realised at {skip}", least, of_setting(skip, "realised")
    for name, skip, least in (
        ("resnet18-b1-fp32", "0.35", 1.4), ("resnet18-b1-fp32", "0.5", 1.7), ("resnet18-b1-fp32", "0.7", 2.4),
        ("resnet18-b1-bf16", "0.35", 1.2), ("resnet18-b1-bf16", "0.5", 1.5), ("resnet18-b1-bf16", "0.7", 2.0),
        ("resnet20-b32-fp32", "0.5", 1.7), ("resnet20-b32-bf16", "0.5", 1.3),
    ):  # fmt: skip
        yield name, f"speed-up / best dense at {skip}", least, of_setting(skip, "speed_up_against_best_dense")
    yield from _wanted_in_int8()
    for name, least in (("resnet18-b1-threads", 1.8), ("resnet20-b32-threads", 1.9)):
        for who in ("own dense", "LCCL 0.5"):
            yield name, f"2 threads / 1, {who}", least, _of_row("scaling", who, "speed_up")
    for name, skip, least in (("paper-resnet18", "0.382", 0.33), ("paper-resnet34", "0.264", 0.236)):
        yield name, "time saved / own dense", least, of_setting(skip, "saving")
        yield name, "time saved / best baseline", least, of_setting(skip, "saving_against_best_baseline")


def _wanted_in_int8() -> Iterator[tuple[str, str, float, Read]]:
    """Beside the fastest of any precision; the best baseline is int8's on machines with VNNI."""
    for name, least in (("resnet18-b1-int8", 0.95), ("resnet18-b8-int8", 0.95), ("resnet20-b32-int8", 1.0)):
        yield name, "own dense / best baseline", least, own_dense
    for name in ("resnet18-b1-int8", "resnet18-b8-int8"):
        for skip, least in (("0.35", 1.2), ("0.5", 1.5), ("0.7", 2.05)):
            yield name, f"speed-up / best dense at {skip}", least, of_setting(skip, "speed_up_against_best_dense")
        yield name, "speed-up / OpenVINO fp32 at 0.5", 5.0, _faster("LCCL 0.5", "OpenVINO fp32")
        yield name, "realised at 0.5", 0.85, of_setting("0.5", "realised")
    for name in ("resnet18-b1-int8-amx", "resnet18-b8-int8-amx", "resnet20-b32-int8-amx"):
        yield name, "own dense / best baseline", 0.95 if "18" in name else 1.0, own_dense
        yield name, "speed-up / best baseline at 0.5", 1.5, of_setting("0.5", "speed_up_against_best_baseline")
    for name, least in (("resnet20-b1-int8", 1.3), ("resnet20-b32-int8", 1.35)):
        yield name, "speed-up / best baseline at 0.5", least, of_setting("0.5", "speed_up_against_best_baseline")


def _faster(name: str, other: str) -> Read:
    """The ratio of two contestants' speeds; None where one is absent."""

    def read(made: Figures) -> float | None:
        speeds = {row["name"]: row.get("speed_against_best_baseline") for row in made["contestants"]}
        return speeds[name] / speeds[other] if speeds.get(name) and speeds.get(other) else None

    return read


def _wanted_on_gpu() -> Iterator[tuple[str, str, float, Read]]:
    realised, speed_up = of_setting(AT, "realised"), _if_compiled(of_setting(AT, "speed_up_against_best_baseline"))
    for network in ("resnet18", "wrn-28-10"):
        yield f"{network} b256", "own dense / best baseline", 1.1, _if_compiled(own_dense)
    for network, share, least in (("wrn-28-10", 0.9, 1.8), ("resnet18", 0.8, 1.6), ("resnet34", 0.8, 1.6)):
        yield f"{network} b256", f"realised at {AT}", share, realised
        yield f"{network} b256", f"speed-up / best baseline at {AT}", least, speed_up
        yield f"{network} b32", f"speed-up / best baseline at {AT}", 1.3, speed_up
    for network in ("resnet20", "resnet110"):
        for batch, least in ((1, 2.0), (64, 1.5)):
            yield f"{network} b{batch}", f"speed-up / best baseline at {AT}", least, speed_up


def _if_compiled(read: Read) -> Read:
    """None where no compiled baseline was measured: eager PyTorch is easy to beat."""

    def is_compiled(row: Figures) -> bool:
        return row["name"].startswith(COMPILED) and row["absent"] is None

    return lambda case: read(case) if any(map(is_compiled, case["contestants"])) else None


def own_dense(made: Figures) -> float | None:
    """The speed of own dense against the best baseline."""
    return _of_row("contestants", "own dense", "speed_against_best_baseline")(made)


def of_setting(name: str, figure: str) -> Read:
    """A figure of the setting of that name."""
    return _of_row("settings", name, figure)


def _of_row(rows: str, name: str, figure: str) -> Read:
    return lambda made: next(row[figure] for row in made[rows] if row["name"] == name)
