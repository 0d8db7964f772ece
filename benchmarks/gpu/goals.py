"""What the GPU engine should reach, and what result files say that it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

Figures = dict[str, Any]

KERNEL_RATE = 0.9
AT = "0.5"  # the skip ratio that goals are set at
COMPILED = "torch.compile"


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure, what it should at least be, and what it is; None where it was not measured."""

    what: str
    least: float
    figure: float | None

    @property
    def reached(self) -> bool:
        """Whether it was measured, and is high enough."""
        return self.figure is not None and self.figure >= self.least


def goals(kernels: Figures | None, networks: Figures | None) -> list[Goal]:
    """Every goal, with the figures of the two result files as far as they are there."""
    return [*_of_kernels(kernels), *_of_networks(networks)]


def show(found: list[Goal], console: Console) -> None:
    """A line per goal."""
    table = Table(title="Goals and what was reached", title_justify="left", box=None, header_style="bold")
    for column in ("figure", "goal", "reached", ""):
        table.add_column(column, justify="right" if column in ("goal", "reached") else "left")
    for goal in found:
        figure = "" if goal.figure is None else f"{goal.figure:.3f}"
        verdict = "not measured" if goal.figure is None else "[green]reached" if goal.reached else "[red]missed"
        table.add_row(goal.what, f"≥ {goal.least:g}", figure, verdict)
    console.print(table)


def _of_kernels(made: Figures | None) -> Iterator[Goal]:
    rows = [] if made is None else made["all_rows"]
    if not rows:
        yield Goal("convolution's rate / cuDNN, all rows", KERNEL_RATE, None)
    for row in rows:
        yield Goal(f"convolution's rate / cuDNN, all rows, {row['layer']}", KERNEL_RATE, row["rate_against_cudnn"])


def _of_networks(made: Figures | None) -> Iterator[Goal]:
    cases = {} if made is None else {row["case"]: row for row in made["cases"]}

    def goal(what: str, case: str, least: float, read: Callable[[Figures], float | None]) -> Goal:
        return Goal(f"{what}, {case}", least, read(cases[case]) if case in cases else None)

    for network in ("resnet18", "wrn-28-10"):
        yield goal("own dense / best baseline", f"{network} b256", 1.1, _own_dense)
    for network, least in (("wrn-28-10", 0.9), ("resnet18", 0.8), ("resnet34", 0.8)):
        yield goal(f"realised at {AT}", f"{network} b256", least, _realised)
    for network, least in (("wrn-28-10", 1.8), ("resnet18", 1.6), ("resnet34", 1.6)):
        yield goal(f"speed-up / best baseline at {AT}", f"{network} b256", least, _speed_up)
    for network in ("wrn-28-10", "resnet18", "resnet34"):
        yield goal(f"speed-up / best baseline at {AT}", f"{network} b32", 1.3, _speed_up)
    for network in ("resnet20", "resnet110"):
        for batch, least in ((1, 2.0), (64, 1.5)):
            yield goal(f"speed-up / best baseline at {AT}", f"{network} b{batch}", least, _speed_up)


def _own_dense(case: Figures) -> float | None:
    return _against_baseline(case, case["own_dense"])


def _realised(case: Figures) -> float:
    return float(_setting(case)["realised"])


def _speed_up(case: Figures) -> float | None:
    return _against_baseline(case, _setting(case))


def _against_baseline(case: Figures, setting: Figures) -> float | None:
    """The speed against the best baseline; None where no compiled one was measured: eager PyTorch is easy to beat."""
    compiled = any(name.startswith(COMPILED) for name in case["baselines"])
    return float(setting["speed_against_best_baseline"]) if compiled else None


def _setting(case: Figures) -> Figures:
    return next(setting for setting in case["settings"] if setting["name"] == AT)
