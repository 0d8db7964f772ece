"""Network → plan: the only lowering."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lccl.networks import Architecture, build
from lccl.networks.resnet import (
    IdentityShortcut,
    PostActivationBlock,
    PreActivationBlock,
    ProjectionShortcut,
    ResNet,
)
from lccl.networks.sidenet import SideNetSpec
from lccl.networks.skip_conv import SkipConv
from lccl.networks.split_conv import SplitConv
from lccl.plan.geometry import NetworkShape, shape_of
from lccl.plan.steps import (
    Activated,
    Affine,
    Array,
    AveragePool,
    Buffer,
    Classify,
    Convolve,
    Exit,
    Gate,
    MaxPool,
    Normalise,
    Plan,
    Residual,
    Split,
    Step,
)
from lccl.preprocessing import Preprocessing


def lower(network: ResNet, preprocessing: Preprocessing) -> Plan:
    """Describe a network in evaluation mode as a plan for images of ``preprocessing.size``.

    Normalisation uses the running statistics. Arrays keep the network's floating type.
    """
    builder = _Builder()
    mean, std = torch.tensor(preprocessing.statistics, dtype=network.classifier.weight.dtype)
    image = builder.buffer("image", 3, preprocessing.size, preprocessing.size)
    builder.steps.append(Normalise(_array(mean), _array(std), image))
    if network.form == "post":
        x = _post_activation(builder, network, image)
    else:
        x = _pre_activation(builder, network, image)
    channels = builder.buffers[x].channels
    builder.steps.append(AveragePool(x, builder.buffer("features", channels, 1, 1)))
    builder.steps.append(Classify("features", *_linear(network.classifier, network.sidenets.temperature)))
    return Plan(
        buffers=tuple(builder.buffers.values()),
        steps=tuple(builder.steps),
        layers=tuple(builder.layers),
        classes=network.classifier.out_features,
        exits=len(network.sidenets),
    )


def network_shape(architecture: Architecture, size: int, sidenets: Sequence[SideNetSpec] = ()) -> NetworkShape:
    """What counts in a network for images of ``size`` pixels a side: the same lowering, of weights that take no memory.

    Raises:
        ArchitectureError: the SideNets do not fit the network.

    """
    with torch.device("meta"):
        network = build(architecture).eval()
        network.add_sidenets(sidenets)
    return shape_of(lower(network, Preprocessing(size, size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))))


@dataclass
class _Builder:
    """Steps and buffers as they are put down."""

    buffers: dict[str, Buffer] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)

    def buffer(self, name: str, channels: int, height: int, width: int) -> str:
        self.buffers[name] = Buffer(name, channels, height, width)
        return name

    def convolve(
        self, name: str, source: str, conv: nn.Conv2d | SplitConv, norm: nn.BatchNorm2d | None, **fields: Any
    ) -> None:
        """Append a convolution, and a buffer for each of its outputs; ``fields`` are further ones of the step."""
        step = Convolve(
            name=name,
            input=source,
            weight=_array(conv.window.weight if isinstance(conv, SplitConv) else conv.weight),
            stride=int(conv.stride[0]),
            affine=None if norm is None else _affine(norm),
            split=_split(conv) if isinstance(conv, SplitConv) else None,
            **fields,
        )
        before = self.buffers[source]
        for output in step.writes:
            self.buffer(output, conv.out_channels, -(-before.height // step.stride), -(-before.width // step.stride))
        self.steps.append(step)

    def skip_conv(self, name: str, source: str, module: SkipConv, gate_input: str | None = None, **fields: Any) -> None:
        """Append a convolution with its gate, if it has one, which reads ``gate_input`` or else the same buffer."""
        gate = None
        if module.gate is not None:
            conv, norm = module.gate.conv, module.gate.norm
            affine = _identity(conv) if norm is None else _affine(norm)
            gate = Gate(name, len(self.layers), gate_input or source, _array(conv.weight), affine)
            self.layers.append(name)
        self.convolve(
            name, source, module.conv, module.norm, relu=module.activation == "norm_relu", gate=gate, **fields
        )

    def exit(self, network: ResNet, block: int, source: str) -> None:
        """Append what may end the run after a block, if anything; ``source`` is the block's activated value."""
        for number, side in enumerate(network.sidenets):
            if side.spec.after != block:
                continue
            channels, grid = self.buffers[source].channels, side.spec.grid
            pooled = self.buffer(f"sidenets.{number}", channels, grid, grid)
            self.steps.append(AveragePool(source, pooled, grid))
            weight, bias = _linear(side.hidden)
            answer = _linear(side.classifier, side.temperature)
            self.steps.append(Exit(number, pooled, weight.reshape(-1, channels, grid, grid), bias, *answer))

    def shortcut(self, name: str, source: str, module: IdentityShortcut | ProjectionShortcut) -> Residual:
        if isinstance(module, IdentityShortcut):
            return Residual(source, module.stride)
        self.convolve(f"{name}.shortcut", source, module.conv, module.norm, raw=f"{name}.shortcut")
        return Residual(f"{name}.shortcut")


def _post_activation(builder: _Builder, network: ResNet, image: str) -> str:
    builder.convolve("stem", image, network.stem_conv, network.stem_norm, relu=True, raw="stem")
    x = "stem"
    if network.large:
        before = builder.buffers["stem"]
        x = builder.buffer("stem.pool", before.channels, -(-before.height // 2), -(-before.width // 2))
        builder.steps.append(MaxPool("stem", 3, 2, x))
    for index, block in enumerate(network.blocks):
        assert isinstance(block, PostActivationBlock)
        residual = builder.shortcut(f"blocks.{index}", x, block.shortcut)
        last = list(block.convs)[-1]
        for name, conv in block.convs.items():
            step = f"blocks.{index}.{name}"
            ends = {"residual": residual, "activated": Activated(step)} if name == last else {"raw": step}
            builder.skip_conv(step, x, conv, **ends)
            x = step
        builder.exit(network, index, x)
    return x


def _pre_activation(builder: _Builder, network: ResNet, image: str) -> str:
    """Each value is activated for the next convolution, and kept raw where a gate or an identity shortcut reads it."""
    blocks = [block for block in network.blocks if isinstance(block, PreActivationBlock)]
    assert network.final_norm is not None
    norms = [norm for block in blocks for norm in block.norms] + [network.final_norm]
    readers = [
        before or (not number and not block.projects) for block in blocks for number, before in enumerate(block.before)
    ]
    following = zip(norms, [*readers, False], strict=True)

    def outputs(name: str) -> dict[str, Any]:
        norm, is_read = next(following)
        return {"raw": name if is_read else None, "activated": Activated(f"{name}.a", _affine(norm))}

    builder.convolve("stem", image, network.stem_conv, None, **outputs("stem"))
    x = "stem"
    for index, block in enumerate(blocks):
        residual = builder.shortcut(f"blocks.{index}", f"{x}.a" if block.projects else x, block.shortcut)
        last = list(block.convs)[-1]
        for (name, conv), before in zip(block.convs.items(), block.before, strict=True):
            step = f"blocks.{index}.{name}"
            builder.skip_conv(
                step,
                f"{x}.a",
                conv,
                gate_input=x if before else None,
                residual=residual if name == last else None,
                **outputs(step),
            )
            x = step
        builder.exit(network, index, f"{x}.a")
    return f"{x}.a"


def _split(conv: SplitConv) -> Split:
    pointwise, rest = _array(conv.pointwise.weight), _array(conv.rest.weight)
    return Split(pointwise, _affine(conv.window_norm), rest, _affine(conv.rest_norm))


def _affine(norm: nn.BatchNorm2d) -> Affine:
    """Evaluation-mode normalisation as a scale and shift; computed in float64, kept in the network's type."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.detach().double() - norm.running_mean.double() * scale
    return Affine(_array(scale.to(norm.weight.dtype)), _array(shift.to(norm.weight.dtype)))


def _linear(module: nn.Linear, temperature: Tensor | None = None) -> tuple[Array, Array]:
    """Weight and bias, divided by a temperature."""
    if temperature is None:
        return _array(module.weight), _array(module.bias)
    weight, bias = (value.detach().double() / temperature.double() for value in (module.weight, module.bias))
    return _array(weight.to(module.weight.dtype)), _array(bias.to(module.weight.dtype))


def _identity(conv: nn.Conv2d) -> Affine:
    """What stands for the normalisation that a gate lacks."""
    maps = torch.ones(conv.out_channels, dtype=conv.weight.dtype)
    return Affine(_array(maps), _array(torch.zeros_like(maps)))


def _array(tensor: Tensor) -> Array:
    if tensor.is_meta:
        return np.broadcast_to(np.float32(0), tensor.shape)
    return tensor.detach().cpu().contiguous().numpy().copy()
