"""A small network as one launch: a program per image runs all steps, with the image's maps in the L2 cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lccl.engines.cuda.batch import Batch, Dense
from lccl.engines.cuda.image_layout import NARROWEST, Layout, lay_out, maps_read, maps_written
from lccl.engines.cuda.kernels import image as kernel
from lccl.errors import EngineError
from lccl.plan import steps
from lccl.plan.geometry import NetworkShape
from lccl.plan.steps import Array, Plan

WARPS = 8
LARGEST = 32  # height and width of an image
_TAPS = 9
_WIDTHS, _WINDOWS = (16, 32, 64), (1, 3)  # channels; sides of convolutions' windows


class ImageProgram:
    """Runs whole images, one Triton program each; see :class:`lccl.engines.cuda.batch.Program`.

    A program computes the kept positions of every SkipConv, whatever ``dense`` asks for: listing them costs it little,
    and it waits for no other image. The first launch with a batch may not be part of a graph's capture, as it writes
    down where the batch's masks lie.

    Attributes:
        maps: the scratch for maps, ``dtype`` [size, elements]; borders are zero from the beginning.
        layout: where each map lies in it.
        room: float32 [size, elements], the products of gates' taps, gates, pooled features and hidden layers.
        listed: int32 [size, cells], the kept positions of the layer that runs.

    """

    def __init__(self, plan: Plan, shape: NetworkShape, size: int, device: torch.device, dtype: torch.dtype) -> None:
        """Pack a plan's weights for batches of up to ``size`` images; ``dtype`` is float16 or bfloat16.

        Raises:
            EngineError: the plan is none that fits.

        """
        if not self.fits(plan):
            raise EngineError("this network does not fit one program per image: run it by layers")
        packed = _Packing(plan, lay_out(plan), dtype)
        self.layout, self._plan, self._costs = packed.layout, plan, packed.costs
        self._table = torch.from_numpy(np.stack(packed.rows)).to(device)
        self._weights = torch.cat(packed.weights).to(device)
        self._values = torch.from_numpy(np.concatenate(packed.values)).to(device)
        self._cells = packed.cells
        self.maps = torch.zeros((size, self.layout.elements), dtype=dtype, device=device)
        self.room = torch.zeros((size, packed.room), dtype=torch.float32, device=device)
        self.listed = torch.zeros((size, self._cells), dtype=torch.int32, device=device)
        groups = {layer.gate_groups for layer in shape.layers}
        self._compiled_for = {"WIDTHS": packed.widths, "SHARED": 1 in groups, "GROUPED": bool(groups - {1})}
        self._addresses: dict[tuple[int, ...], Tensor] = {}

    @staticmethod
    def fits(plan: Plan) -> bool:
        """Whether one program per image can run a plan.

        Its image has at most 32 × 32 pixels, its convolutions 1×1 or 3×3 windows without a split, and 16, 32 or 64
        channels that stay or double; there is no max pooling.
        """
        image = plan.image
        if image.channels != 3 or max(image.height, image.width) > LARGEST:
            return False
        return all(_fits(plan, step) for step in plan.steps)

    def launch(self, batch: Batch, dense: Dense, forced: tuple[Tensor, ...] | None = None) -> None:
        """See :meth:`lccl.engines.cuda.batch.Program.launch`."""
        image = self._plan.image
        kernel.run_image[(len(batch),)](
            batch.images, batch.thresholds, batch.norm_set, batch.confidence, batch.valid,
            batch.logits, batch.kept, batch.left, self._addresses_of(batch.masks, forced or batch.masks),
            self._table, self._weights, self._values, self.maps, self.room, self.listed,
            len(self._table) - 1, len(self._plan.layers), self._plan.exits, self._plan.classes, self._plan.norm_sets,
            image.height * image.width * 3, self.maps.shape[1], self.room.shape[1],
            **self._compiled_for, CELLS=self._cells, FORCED=forced is not None,
            num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip

    def executed_macs(self, kept: NDArray[np.int64], left: NDArray[np.int64], dense: Dense) -> NDArray[np.int64]:
        """See :meth:`lccl.engines.cuda.batch.Program.executed_macs`.

        Counted are all products' padded sides: kept positions rounded up to tiles, the channels of the image and of
        runs of taps, both 16-bit parts of a gate's weights, the 16 columns of a shared gate's taps, and all channels'
        columns of a gate with several maps.
        """
        executed = np.zeros(len(left), dtype=np.int64)
        for cost in self._costs:
            spent = np.full(len(left), cost.beside, dtype=np.int64)
            if cost.layer is not None:
                rows = kept[:, cost.layer] // cost.channels
                spent += -(-rows // cost.rows) * cost.tile
            executed += np.where(left >= cost.exits_before, spent, 0)
        return executed

    def _addresses_of(self, masks: tuple[Tensor, ...], forced: tuple[Tensor, ...]) -> Tensor:
        addresses = tuple(mask.data_ptr() for mask in (*masks, *forced))
        if addresses not in self._addresses:
            self._addresses[addresses] = torch.tensor(addresses, dtype=torch.int64, device=self.maps.device)
        return self._addresses[addresses]


@dataclass(frozen=True, slots=True)
class _Cost:
    """MACs of a step: ``beside`` in any case, and ``tile`` per started ``rows`` kept positions of a ``layer``."""

    exits_before: int
    beside: int
    layer: int | None = None
    channels: int = 1
    rows: int = 1
    tile: int = 0


@dataclass
class _Packing:
    """A plan as the kernel reads it: a table's rows, and the weights and values that they point to."""

    plan: Plan
    layout: Layout
    dtype: torch.dtype
    rows: list[NDArray[np.int32]] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    values: list[NDArray[np.float32]] = field(default_factory=list)
    costs: list[_Cost] = field(default_factory=list)
    features: dict[str, int] = field(default_factory=dict)
    widths: int = 0
    exits: int = 0

    def __post_init__(self) -> None:
        self.cells = max(place.height * place.width for place in self.layout.places.values())
        self.room = (_TAPS + 1) * self.cells
        self._weights_used = self._values_used = 0
        for step in self.plan.steps:
            if isinstance(step, steps.Normalise):
                self._normalise(step)
            elif isinstance(step, steps.Convolve):
                self._convolve(step)
            elif isinstance(step, steps.AveragePool):
                self._average_pool(step)
            elif isinstance(step, steps.Exit):
                self._exit(step)
            elif isinstance(step, steps.Classify):
                self._classify(step)

    def _row(self, fields: dict[Any, int]) -> None:
        """Append a row; a field that is not named is 0, or −1 where that means none."""
        row = np.zeros(kernel.FIELDS.value, dtype=np.int32)
        absent = dict.fromkeys((kernel.LAYER, kernel.RAW, kernel.ACTIVATED), -1)
        for name, value in {**absent, **fields}.items():
            row[name.value] = value
        self.rows.append(row)

    def _weight(self, array: Tensor) -> int:
        offset = self._weights_used
        self.weights.append(array.to(self.dtype).flatten())
        self._weights_used += array.numel()
        return offset // 16

    def _value(self, *arrays: Array) -> int:
        """Where arrays lie, one behind the other."""
        offset = self._values_used
        for array in arrays:
            self.values.append(np.asarray(array, dtype=np.float32).ravel())
            self._values_used += array.size
        return offset

    def _affine(self, affine: steps.Affine | None, channels: int, factor: float = 1) -> int:
        """An affine whose channels are repeated to as many as are wanted, of ``factor`` · x."""
        if affine is None:
            affine = steps.Affine(np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32))
        repeats = channels // affine.scale.shape[1]
        sides = (self.plan.norm_sets, channels)
        return self._value(
            *(np.broadcast_to(np.repeat(one, repeats, 1), sides) for one in (affine.scale / factor, affine.shift))
        )

    def _map(self, name: str | None) -> int:
        return -1 if name is None else self.layout.places[name].offset // 16

    def _room(self, elements: int) -> int:
        offset = self.room
        self.room += elements
        return offset

    def _normalise(self, step: steps.Normalise) -> None:
        place = self.layout.places[step.raw]
        self._value(step.mean, step.std)
        self._row(
            {
                kernel.INPUT: self._map(step.raw),
                kernel.WIDTH: place.width,
                kernel.POSITIONS: place.height * place.width,
            }
        )

    def _convolve(self, step: steps.Convolve) -> None:
        source = self.layout.places[step.input]
        target = self.layout.places[maps_written(step)[0]]
        weight = _tensor(step.weight)
        kind = kernel.PAIRS.index((source.channels, target.channels))
        self.widths |= 1 << kind
        activated, affine = (None, None) if step.activated is None else (step.activated.buffer, step.activated.affine)
        self._row(
            {
                kernel.KIND: kind,
                kernel.POSITIONS: target.height * target.width,
                kernel.WIDTH: target.width,
                kernel.STRIDE: step.stride,
                kernel.INPUT: self._map(step.input),
                kernel.INPUT_WIDTH: source.width,
                kernel.INPUT_POSITIONS: source.height * source.width,
                kernel.CORNER: _corner(weight, source.width),
                kernel.RUNS: len(_in_runs(weight)),
                kernel.WEIGHT: self._weight(_in_runs(weight)),
                kernel.AFFINE: self._affine(step.affine, target.channels),
                kernel.RELU: step.relu,
                kernel.RAW: self._map(step.raw),
                kernel.ACTIVATED: self._map(activated),
                kernel.ACTIVATION: self._affine(affine, target.channels),
                kernel.FILL: step.name not in self.layout.in_place,
                **self._residual(step.residual),
                **self._gate(step),
            }
        )
        self.costs.append(self._cost(step, source.channels, target.height * target.width))

    def _residual(self, residual: steps.Residual | None) -> dict[Any, int]:
        if residual is None:
            return {}
        place = self.layout.places[residual.buffer]
        return {
            kernel.RESIDUAL: self._map(residual.buffer),
            kernel.RESIDUAL_WIDTH: place.width,
            kernel.RESIDUAL_CHANNELS: place.channels,
            kernel.RESIDUAL_STRIDE: residual.stride,
        }

    def _gate(self, step: steps.Convolve) -> dict[Any, int]:
        gate = step.gate
        if gate is None:
            return {}
        groups, channels = len(gate.weight), len(step.weight)
        factor = _power_of_two(gate.weight)
        weight = _tensor(gate.weight) * factor
        high = weight.to(self.dtype).float()
        if groups == 1:
            parts = torch.stack([_in_columns(part) for part in (high, weight - high)])
        else:
            wide = [part.repeat_interleave(channels // groups, 0) for part in (high, weight - high)]
            parts = torch.stack([_in_runs(part) for part in wide])
        return {
            kernel.LAYER: gate.layer,
            kernel.GROUPS: groups,
            kernel.GATE_INPUT: self._map(gate.input),
            kernel.GATE_CORNER: _corner(weight, self.layout.places[gate.input].width),
            kernel.GATE_RUNS: len(_in_runs(weight)),
            kernel.GATE_TAPS: weight.shape[2] ** 2,
            kernel.GATE_WEIGHT: self._weight(parts),
            kernel.GATE_AFFINE: self._affine(gate.affine, 1 if groups == 1 else channels, factor),
        }

    def _cost(self, step: steps.Convolve, in_channels: int, positions: int) -> _Cost:
        channels = len(step.weight)
        rows = kernel.rows_of(channels)
        tiles = -(-positions // rows)
        tile = rows * channels * _in_runs(_tensor(step.weight))[..., 0].numel()
        if step.gate is None:
            return _Cost(self.exits, tiles * tile)
        if len(step.gate.weight) == 1:
            place = self.layout.places[step.gate.input]
            products = -(-place.height * place.width // rows) * rows * 2 * in_channels * kernel.TAP_COLUMNS.value
            return _Cost(self.exits, products, step.gate.layer, channels, rows, tile)
        gate_tile = rows * channels * 2 * _in_runs(_tensor(step.gate.weight))[..., 0].numel()
        return _Cost(self.exits, tiles * (tile + gate_tile))

    def _average_pool(self, step: steps.AveragePool) -> None:
        place = self.layout.places[step.input]
        self.features[step.raw] = self._room(place.channels * step.grid**2)
        self._row(
            {
                kernel.KIND: kernel.POOL.value,
                kernel.INPUT: self._map(step.input),
                kernel.WIDTH: place.width,
                kernel.POSITIONS: place.height * place.width,
                kernel.CHANNELS: place.channels,
                kernel.GRID: step.grid,
                kernel.FEATURES: self.features[step.raw],
            }
        )

    def _exit(self, step: steps.Exit) -> None:
        hidden = len(step.hidden_weight)
        self._row(
            {
                kernel.KIND: kernel.LEAVE.value,
                kernel.FEATURES: self.features[step.input],
                kernel.FEATURE_COUNT: step.hidden_weight[0].size,
                kernel.HIDDEN: self._room(hidden),
                kernel.HIDDEN_COUNT: hidden,
                kernel.HIDDEN_WEIGHT: self._value(step.hidden_weight),
                kernel.HIDDEN_BIAS: self._value(step.hidden_bias),
                kernel.WEIGHT: self._value(step.weight),
                kernel.BIAS: self._value(step.bias),
                kernel.EXIT: step.exit,
            }
        )
        self.costs.append(_Cost(self.exits, _linear_macs(step.hidden_weight) + _linear_macs(step.weight)))
        self.exits += 1

    def _classify(self, step: steps.Classify) -> None:
        self._row(
            {
                kernel.KIND: kernel.CLASSIFY.value,
                kernel.FEATURES: self.features[step.input],
                kernel.FEATURE_COUNT: step.weight.shape[1],
                kernel.WEIGHT: self._value(step.weight),
                kernel.BIAS: self._value(step.bias),
            }
        )
        self.costs.append(_Cost(self.exits, _linear_macs(step.weight)))


def _fits(plan: Plan, step: steps.Step) -> bool:
    if isinstance(step, steps.MaxPool):
        return False
    sources = [plan.buffer(name) for name in maps_read(step) if name != plan.image.name]
    if any(source.channels not in _WIDTHS for source in sources):
        return False
    if not isinstance(step, steps.Convolve):
        return not isinstance(step, steps.AveragePool) or bool(sources)
    channels, read, size, _ = step.weight.shape
    if (max(read, NARROWEST), channels) not in kernel.PAIRS or size not in _WINDOWS or step.split is not None:
        return False
    if step.gate is None:
        return True
    groups, gate_read, gate_size, _ = step.gate.weight.shape
    same_side = plan.buffer(step.gate.input).width == plan.buffer(step.input).width
    return gate_read == read and gate_size in _WINDOWS and channels % groups == 0 and same_side


def _tensor(array: Array) -> Tensor:
    """A copy in float32, with at least 16 input channels: [T, C, ...]."""
    tensor = torch.tensor(array, dtype=torch.float32)
    missing = NARROWEST - tensor.shape[1]
    return torch.nn.functional.pad(tensor, (0, 0, 0, 0, 0, missing)) if missing > 0 else tensor


def _in_runs(weight: Tensor) -> Tensor:
    """[T, C, k, k] → [runs, window, T]: a tap a run, or of 16 channels a row of taps padded to 64 inputs."""
    channels, read, size, _ = weight.shape
    window = kernel.window_of(read)
    taps = weight.permute(2, 3, 1, 0).reshape(size if window > read else size**2, -1, channels)
    return torch.nn.functional.pad(taps, (0, 0, 0, window - taps.shape[1]))


def _in_columns(weight: Tensor) -> Tensor:
    """A shared gate's [1, C, k, k] → [C, 16], its taps first."""
    taps = weight[0].flatten(1)
    return torch.nn.functional.pad(taps, (0, kernel.TAP_COLUMNS.value - taps.shape[1]))


def _corner(weight: Tensor, width: int) -> int:
    """Cells from the corner of a 3×3 window with padding to the first that a window of this weight reads."""
    return 0 if weight.shape[2] == 3 else width + 3


def _power_of_two(weight: Array) -> float:
    """A factor that brings the largest weight near 128, so that what 16 bits leave over is itself a normal number."""
    largest = float(np.abs(weight).max())
    return float(2.0 ** (7 - np.floor(np.log2(largest)))) if 0 < largest < np.inf else 1.0


def _linear_macs(weight: Array) -> int:
    """MACs of a linear layer whose sides are padded."""
    outputs, inputs = len(weight), weight[0].size
    sides = kernel.OUTPUTS.value, kernel.INPUTS.value
    return int(-(-outputs // sides[0]) * sides[0] * (-(-inputs // sides[1]) * sides[1]))
