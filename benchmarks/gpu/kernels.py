"""Kernels alone, layer by layer: the convolution with all rows listed and with random ones, and the gate that lists.

In the order in which a failure saves most of the device's time: rates with all rows, then with random ones, then what
listing the rows takes under a graph, the floor below which no skipping network gets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.gpu import baselines
from benchmarks.gpu.timing import Clock, Launch, Samples, take_turns
from lccl.networks import Architecture, build
from lccl.networks.lowering import lower
from lccl.plan.geometry import convolution_of
from lccl.train.export import network_input

NETWORKS = ("resnet18", "wrn-28-10")
SKIP = (0.3, 0.5, 0.7)
IN_ONE_GRAPH = 20

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Layer:
    """A gated convolution's shape: k × k windows over ``in_channels``, for ``height`` × ``width`` output positions."""

    network: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    height: int
    width: int
    macs: int

    @property
    def name(self) -> str:
        stride = "" if self.stride == 1 else f" /{self.stride}"
        return f"{self.network} {self.in_channels}→{self.out_channels} {self.height}²{stride}"

    def images(self, batch: int) -> tuple[int, int, int, int]:
        """Shape of its input, [N, C, H, W]."""
        return batch, self.in_channels, self.height * self.stride, self.width * self.stride

    @property
    def weight(self) -> tuple[int, int, int, int]:
        """Shape of its weight, [T, C, k, k]."""
        return self.out_channels, self.in_channels, self.kernel, self.kernel


@dataclass(frozen=True, slots=True, eq=False)
class OwnLayer:
    """Own kernels of one layer, with a mask laid down.

    Attributes:
        kept: share of positions that are listed.
        convolution: computes the listed rows.
        dense: computes all rows without a list.
        gate: computes the gate, tests it and lists the rows.

    """

    kept: float
    convolution: Launch
    dense: Launch
    gate: Launch


MakeLayer = Callable[[Layer, int, float], OwnLayer]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: ``rounds`` of ``runs`` launches for each contestant."""

    rounds: int = 9
    runs: int = 5


def layers_of(network: str) -> list[Layer]:
    """The gated convolutions of a network, each shape once, in the order of the plan."""
    made = build(Architecture(network))
    plan = lower(made, network_input(made.image_size))
    found = {}
    for step in plan.gated:
        shape = convolution_of(plan, step)
        layer = Layer(
            network,
            shape.in_channels,
            shape.out_channels,
            shape.kernel,
            step.stride,
            shape.height,
            shape.width,
            shape.macs,
        )
        found[layer] = layer
    return list(found)


def measure(
    layers: Sequence[Layer],
    batch: int,
    own: MakeLayer,
    clock: Clock,
    device: torch.device,
    effort: Effort,
    keep: Callable[[Figures], None],
) -> Figures:
    """Measure all three parts; ``keep`` is given what there is after each layer, so that a kill loses one layer."""
    made: Figures = {"batch": batch, "all_rows": [], "random_rows": [], "gate": []}
    parts = (("all_rows", all_rows), ("random_rows", random_rows), ("gate", gate_under_a_graph))
    for part, measure_one in parts:
        for layer in layers:
            made[part].append(
                {"layer": layer.name, **asdict(layer), **measure_one(layer, batch, own, clock, device, effort)}
            )
            keep(made)
    return made


def all_rows(layer: Layer, batch: int, own: MakeLayer, clock: Clock, device: torch.device, effort: Effort) -> Figures:
    """Own convolution with every row listed, and without a list, against cuDNN's, in turns."""
    cudnn = baselines.convolutions(layer.images(batch), layer.weight, layer.stride, device)
    made = own(layer, batch, 0.0)
    baseline = {f"cudnn {name}": launch for name, launch in cudnn.items()}
    contestants = {"own": made.convolution, "own, no list": made.dense, **baseline}
    samples = take_turns(contestants, clock, effort.rounds, effort.runs)
    best = samples.fastest(list(baseline))
    return {
        "contestants": {name: _rates(samples, name, layer.macs * batch) for name in contestants},
        "best_baseline": best,
        "rate_against_cudnn": round(1 / samples.ratio("own", best), 4),
        "rate_without_list": round(1 / samples.ratio("own, no list", best), 4),
    }


def random_rows(
    layer: Layer, batch: int, own: MakeLayer, clock: Clock, device: torch.device, effort: Effort
) -> Figures:
    """Own convolution with random rows listed against itself with all of them, in turns.

    ``rate_kept`` is the rate per kept cell as a share of the rate with all rows: 1 realises all that is skipped.
    """
    made = {skip: own(layer, batch, skip) for skip in (0.0, *SKIP)}
    contestants = {_label(skip): each.convolution for skip, each in made.items()}
    samples = take_turns(contestants, clock, effort.rounds, effort.runs)
    return {
        "contestants": {
            _label(skip): _rates(samples, _label(skip), layer.macs * batch * each.kept) for skip, each in made.items()
        },
        "rate_kept": {
            _label(skip): round(made[skip].kept / samples.ratio(_label(skip), _label(0.0)), 4) for skip in SKIP
        },
    }


def gate_under_a_graph(
    layer: Layer, batch: int, own: MakeLayer, clock: Clock, device: torch.device, effort: Effort
) -> Figures:
    """One gate with its lists, count set to 0 before, of a graph that holds many: a graph's own start is no part of it.

    ``one`` is a graph of one alone.
    """
    gate = own(layer, batch, 0.5).gate

    def many() -> None:
        for _ in range(IN_ONE_GRAPH):
            gate()

    contestants = {"many": clock.graph(many), "one": clock.graph(gate)}
    samples = take_turns(contestants, clock, effort.rounds, effort.runs)
    return (
        {"in_one_graph": IN_ONE_GRAPH}
        | {name: samples.figures(name) for name in contestants}
        | {"each_us": round(samples.median("many") / IN_ONE_GRAPH * 1e6, 3)}
    )


def show(made: Figures, console: Console) -> None:
    """A line for each layer, with what was measured of it so far."""
    table = Table(title=f"Kernels, batch {made['batch']}", title_justify="left", box=None, header_style="bold")
    for column in ("layer", "own TFLOP/s", "/ cuDNN", *(f"rate at {skip}" for skip in SKIP), "gate µs"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    random = {row["layer"]: row["rate_kept"] for row in made["random_rows"]}
    gates = {row["layer"]: row["each_us"] for row in made["gate"]}
    for row in made["all_rows"]:
        name = row["layer"]
        rates = [f"{random[name][_label(skip)]:.3f}" if name in random else "" for skip in SKIP]
        gate = f"{gates[name]:.1f}" if name in gates else ""
        rate = row["contestants"]["own"]["tflops"]
        table.add_row(name, f"{rate:.1f}", f"{row['rate_against_cudnn']:.3f}", *rates, gate)
    console.print(table)


def _rates(samples: Samples, name: str, macs: float) -> Figures:
    return samples.figures(name) | {"tflops": round(2 * macs / samples.median(name) / 1e12, 3)}


def _label(skip: float) -> str:
    return f"{skip:g}"
