"""The reference engine: interprets a plan in plain PyTorch, dense then masked. Other engines are compared with it."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lccl.engines.base import Images, checked_images, exit_confidence
from lccl.engines.reference_int8 import IntegerSteps
from lccl.engines.reference_state import State
from lccl.errors import EngineError, require
from lccl.plan import steps
from lccl.plan.geometry import shape_of
from lccl.plan.run import RunOptions, RunOutput
from lccl.plan.steps import Plan

PRECISIONS = {"fp32": torch.float32, "fp64": torch.float64, "int8": torch.float32}  # of what is no integer
CPU = torch.device("cpu")


class ReferenceEngine:
    """Runs a plan step by step; every cell is computed, so ``executed`` MACs are all of them, gates and means."""

    name = "reference"
    experimental = False
    batch_limit = 32
    streams = 1

    def __init__(self, plan: Plan, device: torch.device = CPU, precision: str = "fp32") -> None:
        """Take a plan; a quantised one for int8, on the CPU, and no other. ``auto`` is int8 for it, else fp32.

        Raises:
            EngineError: no such precision, or it does not fit the plan or the device.

        """
        if precision == "auto":
            precision = "int8" if plan.quantised else "fp32"
        quantised = precision == "int8"
        require(
            EngineError,
            (precision in PRECISIONS, f"the reference engine has no precision {precision!r}: use fp32, fp64 or int8"),
            (
                quantised == plan.quantised,
                f"precision {precision} does not fit the plan: int8 and quantised plans go together",
            ),
            (not quantised or device.type == "cpu", f"int8 does not run on {device}: use device cpu"),
        )
        self.plan, self.shape, self.precision = plan, shape_of(plan), precision
        self._device, self._dtype = device, PRECISIONS[precision]
        self._integers = IntegerSteps(plan) if quantised else None

    @torch.inference_mode()
    def run(self, images: Images, options: RunOptions, *, sharing: bool = False) -> RunOutput:
        """See :meth:`lccl.engines.base.Engine.run`."""
        return self.trace(images, options)[0]

    @torch.inference_mode()
    def trace(self, images: Images, options: RunOptions) -> tuple[RunOutput, State]:
        """Run, and keep every buffer, gate and mask; what other engines are compared with step by step."""
        state = self.begin(images, options)
        for step in self.plan.steps:
            self.step(step, state)
        return self._output(state), state

    def begin(self, images: Images, options: RunOptions) -> State:
        """Check a batch and make it the first state."""
        images = checked_images(self.plan, images, options, np.float64 if self.precision == "fp64" else np.float32)
        pixels = torch.from_numpy(np.array(images)).to(self._device)
        return State(
            options=options,
            active=torch.arange(len(images), device=self._device),
            values={"": pixels.permute(0, 3, 1, 2)},
            thresholds=torch.tensor(options.thresholds, device=self._device, dtype=self._dtype),
            confidence=torch.tensor(exit_confidence(self.plan, options), device=self._device, dtype=self._dtype),
            logits=torch.full((len(images), self.plan.classes), torch.nan, device=self._device, dtype=self._dtype),
            exit_index=torch.full((len(images),), self.plan.exits, device=self._device),
        )

    def step(self, step: steps.Step, state: State) -> None:
        """Run one step on the images still active, from the buffers in ``state`` to new ones there."""
        if self._integers is not None:
            self._integers.run(step, state)
            return
        values = state.values
        match step:
            case steps.Normalise():
                pixels = values[""]
                if pixels.dtype == torch.uint8:
                    mean, std = self._get(step.mean), self._get(step.std)
                    pixels = (pixels.to(self._dtype) / 255 - mean[:, None, None]) / std[:, None, None]
                values[step.raw] = pixels.to(self._dtype)
            case steps.Convolve():
                self._convolve(step, state)
            case steps.MaxPool():
                values[step.raw] = F.max_pool2d(values[step.input], step.kernel, step.stride, step.kernel // 2)
            case steps.AveragePool():
                values[step.raw] = F.adaptive_avg_pool2d(values[step.input], step.grid)
            case steps.Exit():
                hidden = torch.relu(self._linear(values[step.input], step.hidden_weight, step.hidden_bias))
                logits = self._linear(hidden, step.weight, step.bias)
                confident = torch.softmax(logits, dim=1).amax(dim=1) > state.confidence[:, step.exit]
                state.leave(confident, logits, step.exit)
            case steps.Classify():
                state.logits[state.active] = self._linear(values[step.input], step.weight, step.bias)
                state.ended = True

    def before_activation(self, step: steps.Convolve, state: State) -> Tensor:
        """What a convolution and its normalisation give, [N, T, H, W]; of a quantised plan in units of the value."""
        if self._integers is not None:
            return self._integers.before_activation(step, state)
        x = state.values[step.input]
        value = self._conv(x, step.weight, step.stride) if step.split is None else self._split(step, step.split, x)
        return value if step.affine is None else self._affine(step.affine, value)

    def gate_before_activation(self, gate: steps.Gate, stride: int, state: State) -> Tensor:
        """What a gate's convolution and its normalisation give, [N, G, H, W]."""
        if self._integers is not None:
            return self._integers.gate_before_activation(gate, stride, state)
        return self._affine(gate.affine, self._conv(state.values[gate.input], gate.weight, stride))

    def _convolve(self, step: steps.Convolve, state: State) -> None:
        value = self.before_activation(step, state)
        if step.relu:
            value = torch.relu(value)
        if step.gate is not None:
            value = self._gate(step.gate, step.stride, value, state)
        if step.residual is not None:
            value = value + _shortcut(state.values[step.residual.buffer], step.residual.stride, value)
        if step.raw is not None:
            state.values[step.raw] = value
        if step.activated is not None:
            affine = step.activated.affine
            state.values[step.activated.buffer] = torch.relu(value if affine is None else self._affine(affine, value))

    def _split(self, step: steps.Convolve, split: steps.Split, x: Tensor) -> Tensor:
        """Both parts, mixed by means that are taken from the input, never from the cells."""
        pooled = F.avg_pool2d(x, step.stride, ceil_mode=True)
        count = split.pointwise.shape[1]
        representative, pad = x[:, :count], step.weight.shape[2] // 2

        def parts(under: Tensor, pooled: Tensor, stride: int, pad: int) -> tuple[Tensor, Tensor]:
            groups = count // step.weight.shape[1]
            window = F.conv2d(under, self._get(step.weight), stride=stride, padding=pad, groups=groups)
            u = window + self._conv(pooled[:, :count], split.pointwise, 1)
            v = self._conv(pooled[:, count:], split.rest, 1)
            return self._affine(split.affine, u), self._affine(split.rest_affine, v)

        taps = tap_means(representative, step.weight.shape[2], step.stride)
        u_mean, v_mean = parts(taps, pooled.mean(dim=(2, 3), keepdim=True), 1, 0)
        u, v = parts(representative, pooled, step.stride, pad)
        beta = torch.sigmoid(u_mean - v_mean)
        return beta * u + (1 - beta) * v

    def _gate(self, gate: steps.Gate, stride: int, value: Tensor, state: State) -> Tensor:
        """The value times its gate where kept, exactly 0 elsewhere, whatever the value is there."""
        maps = torch.relu(self.gate_before_activation(gate, stride, state))
        return state.gated(gate, maps, value)

    def _linear(self, x: Tensor, weight: steps.Array, bias: steps.Array) -> Tensor:
        return F.linear(x.flatten(1), self._get(weight).flatten(1), self._get(bias))

    def _conv(self, x: Tensor, weight: steps.Weights, stride: int) -> Tensor:
        return F.conv2d(x, self._get(weight), stride=stride, padding=weight.shape[2] // 2)

    def _affine(self, affine: steps.Affine, value: Tensor) -> Tensor:
        return value * self._get(affine.scale)[:, None, None] + self._get(affine.shift)[:, None, None]

    def _output(self, state: State) -> RunOutput:
        if not state.ended:
            raise ValueError("the plan has no Classify step")
        images = len(state.exit_index)
        masks = [state.masks[layer] for layer in range(len(self.plan.layers))]
        kept = np.zeros((images, len(masks)), dtype=np.int64)
        for layer, (mask, shape) in enumerate(zip(masks, self.shape.layers, strict=True)):
            channels_per_map = shape.convolution.out_channels // shape.gate_groups
            kept[:, layer] = mask.sum(dim=(1, 2, 3)).cpu().numpy() * channels_per_map
        exit_index = state.exit_index.cpu().numpy()
        return RunOutput(
            logits=state.logits.cpu().numpy(),
            kept=kept,
            executed_macs=self.shape.gated(self.shape.reached(exit_index) * self.shape.cells, exit_index),
            exit_index=exit_index,
            masks=tuple(mask.to(torch.uint8).cpu().numpy() for mask in masks) if state.options.want_masks else None,
        )

    def _get(self, array: steps.Weights) -> Tensor:
        return torch.from_numpy(array).to(self._device, self._dtype)


def tap_means(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Means over a convolution's output positions of what lies under each tap: [N, C, H, W] → [N, C, kernel, kernel].

    The convolution has padding kernel // 2; its weights times these are the means of its cells.
    """
    padded = F.pad(x, [kernel // 2] * 4)
    height, width = (-(-size // stride) for size in x.shape[2:])
    rows = [padded[:, :, row : row + stride * (height - 1) + 1 : stride] for row in range(kernel)]
    means = [
        taken[..., column : column + stride * (width - 1) + 1 : stride].mean(dim=(2, 3))
        for taken in rows
        for column in range(kernel)
    ]
    return torch.stack(means, dim=2).view(*x.shape[:2], kernel, kernel)


def _shortcut(source: Tensor, stride: int, like: Tensor) -> Tensor:
    """Every ``stride``-th position of the source, with zeros in the channels it lacks."""
    if stride > 1:
        source = source[:, :, ::stride, ::stride]
    missing = like.shape[1] - source.shape[1]
    return F.pad(source, (0, 0, 0, 0, 0, missing)) if missing else source
