"""Fake quantisation: a network trains in floats as if its maps and weights were int8, with straight-through gradients.

Values are rounded in the forward pass; backwards, rounding is the identity and clipped values get no gradient. Source:
Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from lccl.errors import QuantisationError
from lccl.networks import NetworkOutput, ResNet
from lccl.networks.lowering import lower
from lccl.networks.resnet import Block
from lccl.networks.split_conv import SplitConv
from lccl.preprocessing import Preprocessing, Statistics
from lccl.quantization.parameters import LARGEST_WEIGHT
from lccl.quantization.plan import zero_of
from lccl.quantization.ranges import value_ranges

STEM = "stem_conv.weight"
KEPT = 0.9999  # share of a map's values that are not clipped
LEVELS = {0: (0, 255), 128: (-127, 127)}


class FakeQuantised:
    """Runs a network on rounded weights and maps; its parameters, which training moves, stay as they are.

    What a convolution, a gate or an identity shortcut reads is rounded, and the weights of all convolutions and gates.
    Exits and the classifier are not. Scales are those of :meth:`range`, which is to be called before the first batch
    and now and then: a network in training changes them.

    Attributes:
        scales: of each map its scale and zero point.

    """

    def __init__(self, network: ResNet, statistics: Statistics) -> None:
        if any(isinstance(module, SplitConv) for module in network.modules()):
            raise QuantisationError("split convolutions (SPConv) do not run in int8: train without --quantize")
        self._network, self._statistics = network, statistics
        self._weights = [f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
        self.scales: dict[str, tuple[float, int]] = {}

    def range(self, images: NDArray[np.uint8]) -> None:
        """Set every map's scale from images uint8 [N, H, W, 3]."""
        was_training = self._network.training
        size = images.shape[1]
        plan = lower(self._network.eval(), Preprocessing(size, size, *self._statistics))
        self._network.train(was_training)
        self.scales = {}
        for group, histogram in value_ranges(plan, images).items():
            zero = zero_of(plan, group[0])
            self.scales |= dict.fromkeys(group, ((histogram.quantile(KEPT) or 1.0) / LEVELS[zero][1], zero))

    def __call__(self, images: Tensor, thresholds: Tensor) -> NetworkOutput:
        """What the network gives with rounded weights and maps; see :meth:`lccl.networks.ResNet.forward`."""
        parameters = dict(self._network.named_parameters())
        rounded = {name: _rounded_weight(parameters[name]) for name in self._weights}
        stem = parameters[STEM]
        deviation = stem.new_tensor(self._statistics[1])[:, None, None]
        rounded[STEM] = _rounded_weight(stem / deviation) * deviation  # its integers are weights of pixels
        hooks = self._register()
        try:
            output: NetworkOutput = functional_call(self._network, rounded, (images, thresholds))
        finally:
            for hook in hooks:
                hook.remove()
        return output

    def _register(self) -> list[RemovableHandle]:
        """Hooks that round what blocks, their convolutions and shortcuts, and the classifier's means read."""
        pre = self._network.form == "pre"  # maps are activated for the next convolution
        source = "stem.pool" if self._network.large else "stem"
        hooks: list[RemovableHandle] = []
        for index, block in enumerate(self._network.blocks):
            assert isinstance(block, Block)
            # What is activated comes from the value before it is stored, so shortcuts alone read the rounded one.
            reader = block.shortcut if pre else block
            stored = f"{source}.a" if pre and block.projects else source
            hooks.append(reader.register_forward_pre_hook(self._before(stored)))
            if block.projects:
                hooks.append(block.shortcut.register_forward_hook(self._after(f"blocks.{index}.shortcut")))
            for number, (name, conv) in enumerate(block.convs.items()):
                if pre or number:
                    hooks.append(conv.register_forward_pre_hook(self._before(f"{source}.a" if pre else source, source)))
                source = f"blocks.{index}.{name}"
        if self._network.final_norm is None:
            hooks.append(block.register_forward_hook(lambda _, __, out: (self._rounded(source, out[0]), out[1])))
        else:  # rounding to what is never negative is a ReLU too
            hooks.append(self._network.final_norm.register_forward_hook(self._after(f"{source}.a")))
        return hooks

    def _after(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        """A hook that rounds what a module gives."""
        return lambda _, __, output: self._rounded(name, output)

    def _before(self, name: str, gate_name: str = "") -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        """A hook that rounds a module's first argument, and its third, what a gate reads."""

        def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            rounded = [self._rounded(name, args[0]), *args[1:]]
            if len(args) > 2:
                rounded[2] = rounded[0] if args[2] is args[0] else self._rounded(gate_name, args[2])
            return tuple(rounded)

        return hook

    def _rounded(self, name: str, values: Tensor) -> Tensor:
        if name not in self.scales:  # only its activated form is stored
            return values
        scale, zero = self.scales[name]
        low, high = LEVELS[zero]
        clipped = values.clamp(low * scale, high * scale)
        return clipped + ((clipped / scale).round() * scale - clipped).detach()


def _rounded_weight(weight: Tensor) -> Tensor:
    """Symmetric for each output channel, as :func:`lccl.quantization.parameters.weight_scales` has it."""
    scale = weight.detach().flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST_WEIGHT
    shaped = scale.view(-1, *[1] * (weight.ndim - 1))
    return weight + ((weight / shaped).round() * shaped - weight).detach()
