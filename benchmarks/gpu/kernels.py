"""Kernels alone, layer by layer: the convolution with all rows listed and with random ones, and the gate that lists.

In this order a failure saves most of the device's time: rates with all rows, then with random ones, then what listing
the rows takes under a graph, the floor below which no skipping network gets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from lccl.bench.gpu import PRECISIONS
from lccl.bench.report import new_table
from lccl.bench.turns import Clock, Launch, Samples, Seconds, take_turns
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
        gate: computes the gate, tests it and lists the rows.

    """

    kept: float
    convolution: Launch
    gate: Launch


@dataclass(frozen=True, slots=True)
class Bench:
    """What layers are measured with: ``rounds`` of ``runs`` launches for each contestant, at one batch size.

    ``own(layer, batch, skip)`` makes own kernels that list random rows, all but the share ``skip``.
    """

    batch: int
    own: Callable[[Layer, int, float], OwnLayer]
    clock: Clock
    device: torch.device
    rounds: int = 9
    runs: int = 5

    def take_turns(self, launches: dict[str, Launch]) -> Samples:
        """Measure launches in turns."""

        def turn(launch: Launch, repeats: int) -> Seconds:
            return self.clock.seconds([launch], repeats)

        turns = {name: partial(turn, launch) for name, launch in launches.items()}
        return take_turns(turns, self.rounds, self.runs)


def layers_of(network: str) -> list[Layer]:
    """The gated convolutions of a network, each shape once, in the order of the plan."""
    made = build(Architecture(network))
    plan = lower(made, network_input(made.image_size))
    layers = []
    for step in plan.gated:
        shape = convolution_of(plan, step)
        sides = (shape.in_channels, shape.out_channels, shape.kernel, step.stride, shape.height, shape.width)
        layers.append(Layer(network, *sides, shape.macs))
    return list(dict.fromkeys(layers))


def measure(layers: Sequence[Layer], bench: Bench, keep: Callable[[Figures], None]) -> Figures:
    """Measure all three parts; ``keep`` is given what there is after each layer, so that a kill loses one layer."""
    made: Figures = {"batch": bench.batch, "all_rows": [], "random_rows": [], "gate": []}
    for part, measure_one in (("all_rows", all_rows), ("random_rows", random_rows), ("gate", gate_under_a_graph)):
        for layer in layers:
            made[part].append({"layer": layer.name, **asdict(layer), **measure_one(layer, bench)})
            keep(made)
    return made


def all_rows(layer: Layer, bench: Bench) -> Figures:
    """Own convolution with every row listed, against cuDNN's, in turns."""
    cudnn = convolutions(layer, bench.batch, bench.device)
    launches = {"own": bench.own(layer, bench.batch, 0.0).convolution, **cudnn}
    samples = bench.take_turns(launches)
    best = min(cudnn, key=samples.median)
    return {
        "contestants": {name: _rates(samples, name, layer.macs * bench.batch) for name in launches},
        "best_baseline": best,
        "rate_against_cudnn": round(1 / samples.ratio("own", best), 4),
    }


def random_rows(layer: Layer, bench: Bench) -> Figures:
    """Own convolution with random rows listed against itself with all of them, in turns.

    ``rate_kept`` is the rate per kept cell as a share of the rate with all rows: 1 realises all that is skipped.
    """
    own = {f"{skip:g}": bench.own(layer, bench.batch, skip) for skip in (0.0, *SKIP)}
    samples = bench.take_turns({name: each.convolution for name, each in own.items()})
    macs = layer.macs * bench.batch
    return {
        "contestants": {name: _rates(samples, name, macs * each.kept) for name, each in own.items()},
        "rate_kept": {f"{skip:g}": round(own[f"{skip:g}"].kept / samples.ratio(f"{skip:g}", "0"), 4) for skip in SKIP},
    }


def gate_under_a_graph(layer: Layer, bench: Bench) -> Figures:
    """One gate with its lists, count set to 0 before, of a graph that holds many: a graph's own start is no part of it.

    ``one`` is a graph of one alone.
    """
    gate = bench.own(layer, bench.batch, 0.5).gate

    def many() -> None:
        for _ in range(IN_ONE_GRAPH):
            gate()

    samples = bench.take_turns({"many": bench.clock.graph(many), "one": bench.clock.graph(gate)})
    each_us = round(samples.median("many") / IN_ONE_GRAPH * 1e6, 3)
    return {
        "in_one_graph": IN_ONE_GRAPH,
        "each_us": each_us,
        **{name: samples.figures(name) for name in samples.seconds},
    }


def convolutions(layer: Layer, batch: int, device: torch.device) -> dict[str, Launch]:
    """CuDNN's convolution alone, by precision, on random values in channels-last order."""
    torch.backends.cudnn.benchmark = True
    return {f"cudnn {name}": _convolution(layer, batch, dtype, device) for name, dtype in PRECISIONS.items()}


def _convolution(layer: Layer, batch: int, dtype: torch.dtype, device: torch.device) -> Launch:
    def draw(sides: tuple[int, ...]) -> Tensor:
        return torch.randn(sides, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)

    x, weight = draw(layer.images(batch)), draw(layer.weight)

    def launch() -> Tensor:
        with torch.inference_mode():
            return F.conv2d(x, weight, stride=layer.stride, padding=layer.kernel // 2)

    return launch


def show(made: Figures, console: Console) -> None:
    """A line for each layer, with what was measured of it so far."""
    columns = ("layer", "own TFLOP/s", "/ cuDNN", *(f"rate at {skip}" for skip in SKIP), "gate µs")
    table = new_table(f"Kernels, batch {made['batch']}", *columns)
    random = {row["layer"]: row["rate_kept"] for row in made["random_rows"]}
    gates = {row["layer"]: row["each_us"] for row in made["gate"]}
    for row in made["all_rows"]:
        name = row["layer"]
        rates = [f"{random[name][f'{skip:g}']:.3f}" if name in random else "" for skip in SKIP]
        gate = f"{gates[name]:.1f}" if name in gates else ""
        rate = row["contestants"]["own"]["tflops"]
        table.add_row(name, f"{rate:.1f}", f"{row['rate_against_cudnn']:.3f}", *rates, gate)
    console.print(table)


def _rates(samples: Samples, name: str, macs: float) -> Figures:
    return samples.figures(name) | {"tflops": round(2 * macs / samples.median(name) / 1e12, 3)}
