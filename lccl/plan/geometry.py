"""Counting work: geometry and kept cells → multiply-accumulates (MACs), by the papers' formulas.

Convolutions and the classifier count; normalisation, ReLU, products and pooling do not.
Source: Dong et al., "More is Less", CVPR 2017, table 1 (r there is the share of NON-zero cells).
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lccl.plan.steps import Classify, Convolve, Exit, Plan


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution's shape: ``out_channels`` × ``height`` × ``width`` cells of kernel² · ``in_channels`` MACs each.

    Attributes:
        window_channels: of a split convolution (SPConv), how many channels a cell's window holds; all ``in_channels``
            pass a 1×1 window beside it. None: the window holds them all.

    """

    in_channels: int
    out_channels: int
    kernel: int
    height: int
    width: int
    window_channels: int | None = None

    @property
    def cells(self) -> int:
        """Output elements per image (positions × channels)."""
        return self.height * self.width * self.out_channels

    @property
    def cell_macs(self) -> int:
        """MACs of one cell."""
        if self.window_channels is None:
            return self.kernel**2 * self.in_channels
        return self.kernel**2 * self.window_channels + self.in_channels

    @property
    def macs(self) -> int:
        """X·Y·T·k²·C; split, X·Y·T·(k²·αC/2 + αC + (1 − α)C)."""
        return self.cells * self.cell_macs

    @property
    def mean_macs(self) -> int:
        """What the means of a split convolution take from its inputs' sums: those of one position."""
        return 0 if self.window_channels is None else self.out_channels * self.cell_macs


@dataclass(frozen=True, slots=True)
class GatedConvolution:
    """A SkipConv's shape: the convolution and its gate's kernel k' and groups G."""

    name: str
    convolution: Convolution
    gate_kernel: int
    gate_groups: int

    @property
    def gate_macs(self) -> int:
        """X·Y·C·k'²·G."""
        shape = self.convolution
        return shape.height * shape.width * shape.in_channels * self.gate_kernel**2 * self.gate_groups

    def gated_macs(self, kept_cells: int) -> int:
        """X·Y·C·(k'²G + k²T·r) with r = kept cells / cells."""
        return self.gate_macs + kept_cells * self.convolution.cell_macs


@dataclass(frozen=True, slots=True)
class EarlyExit:
    """An early exit's shape.

    Attributes:
        macs: of its own classifier, which every image that comes there runs.
        layers: how many SkipConvs lie before it.
        ungated_macs: of all before it that has no gate, exits not counted.
        means: MACs of the means in split convolutions before it.

    """

    macs: int
    layers: int
    ungated_macs: int
    means: int = 0


@dataclass(frozen=True)
class NetworkShape:
    """Everything that counts in a network.

    Attributes:
        layers: its SkipConvs.
        ungated_macs: MACs of all that has no gate.
        means: MACs of the means in split convolutions. Where all cells are there the means could be theirs, so they do
            not count as dense.
        exits: its early exits, in the order that images come to them.
        beside_cells: MACs of all but SkipConv cells for an image that leaves by each exit, the network's end last,
            int64 [E + 1]: what has no gate, the gates, means of split convolutions, and the exits' own classifiers.

    """

    layers: tuple[GatedConvolution, ...]
    ungated_macs: int
    means: int = 0
    exits: tuple[EarlyExit, ...] = ()
    beside_cells: NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        gates = np.cumsum([0, *(layer.gate_macs for layer in self.layers)])
        sides = np.cumsum([0, *(early.macs for early in self.exits)])
        before = [early.ungated_macs + early.means + gates[early.layers] for early in self.exits]
        trunk = np.array([*before, self.ungated_macs + self.means + gates[-1]], dtype=np.int64)
        object.__setattr__(self, "beside_cells", np.add(trunk, [*sides[1:], sides[-1]]))

    @property
    def dense(self) -> int:
        """MACs of the plain twin for one image; it has no early exits."""
        return self.ungated_macs + sum(layer.convolution.macs for layer in self.layers)

    @property
    def gates(self) -> int:
        """MACs of all gates for one image."""
        return sum(layer.gate_macs for layer in self.layers)

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """Cells of each SkipConv for one image, int64 [L]."""
        return np.array([layer.convolution.cells for layer in self.layers], dtype=np.int64)

    @cached_property
    def cell_macs(self) -> NDArray[np.int64]:
        """MACs of one cell of each SkipConv, int64 [L]."""
        return np.array([layer.convolution.cell_macs for layer in self.layers], dtype=np.int64)

    @cached_property
    def _gated_macs(self) -> int:
        """MACs of all SkipConv cells for one image."""
        return int(self.cells @ self.cell_macs)

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """The SkipConvs of each block that has any, by their numbers."""
        members: dict[str, list[int]] = {}
        for number, layer in enumerate(self.layers):
            members.setdefault(layer.name.rpartition(".")[0] or layer.name, []).append(number)
        return tuple(tuple(numbers) for numbers in members.values())

    def gated(self, kept: NDArray[np.int64], exit_index: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Theoretical MACs per image: gates + means + kept cells + the rest, as far as the image came.

        Args:
            kept: int64 [N, L], 0 in layers behind an image's exit.
            exit_index: int64 [N], the exit that each image left by; None where all ran to the end.

        """
        beside = self.beside_cells
        spent: NDArray[np.int64] = (beside[-1] if exit_index is None else beside[exit_index]) + kept @ self.cell_macs
        return spent

    def reached(self, exit_index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which SkipConvs images that leave by these exits come to: ``exit_index`` int64 [N] → bool [N, L]."""
        layers = np.array([*(early.layers for early in self.exits), len(self.layers)])
        reached: NDArray[np.bool_] = np.arange(len(self.layers)) < layers[exit_index][:, None]
        return reached

    def skip_ratio(self, kept: NDArray[np.int64]) -> NDArray[np.float64]:
        """Share of SkipConv cells not kept, weighted by MACs. ``kept`` int64 [N, L] → float64 [N]; 0 without gates.

        Cells behind an image's exit are not kept.
        """
        if not self._gated_macs:
            return np.zeros(len(kept))
        return 1 - (kept @ self.cell_macs) / self._gated_macs

    def layer_skip_ratios(self, kept: NDArray[np.int64]) -> NDArray[np.float64]:
        """Share of cells not kept, per image and layer. ``kept`` int64 [N, L] → float64 [N, L]."""
        return 1 - kept / self.cells


def shape_of(plan: Plan) -> NetworkShape:
    """The geometry of a plan's steps."""
    layers: list[GatedConvolution] = []
    exits: list[EarlyExit] = []
    ungated, means = 0, 0
    for step in plan.steps:
        if isinstance(step, Classify):
            ungated += step.weight.size
        elif isinstance(step, Exit):
            exits.append(EarlyExit(step.hidden_weight.size + step.weight.size, len(layers), ungated, means))
        elif isinstance(step, Convolve):
            convolution = convolution_of(plan, step)
            means += convolution.mean_macs
            if step.gate is None:
                ungated += convolution.macs
            else:
                groups, _, kernel, _ = step.gate.weight.shape
                layers.append(GatedConvolution(step.gate.name, convolution, kernel, groups))
    return NetworkShape(tuple(layers), ungated, means, tuple(exits))


def convolution_of(plan: Plan, step: Convolve) -> Convolution:
    """The shape of a plan's convolution, split or not."""
    out = plan.buffer(step.writes[0])
    channels, window, kernel, _ = step.weight.shape
    if step.split is None:
        return Convolution(window, channels, kernel, out.height, out.width)
    read = step.split.pointwise.shape[1] + step.split.rest.shape[1]
    return Convolution(read, channels, kernel, out.height, out.width, window_channels=window)
