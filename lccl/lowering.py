"""Network → plan: the only place where trained modules become steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lccl.flops import Convolution, GatedConvolution, NetworkShape
from lccl.gates import Gate as GateModule
from lccl.layers import SkipConv
from lccl.networks.resnet import PostActivationBlock, PreActivationBlock, ProjectionShortcut, ResNet
from lccl.plan import (
    Activated,
    Affine,
    Array,
    Buffer,
    Classify,
    Convolve,
    Gate,
    GlobalAveragePool,
    MaxPool,
    Normalise,
    Plan,
    Residual,
    Step,
)
from lccl.preprocessing import Preprocessing


def lower(network: ResNet, preprocessing: Preprocessing) -> Plan:
    """Describe a network in evaluation mode as a plan for images of ``preprocessing.size``.

    Normalisation uses the running statistics. Arrays keep the network's floating type.
    """
    builder = _Builder()
    dtype = network.classifier.weight.dtype
    image = builder.buffer("image", 3, preprocessing.size, preprocessing.size)
    builder.steps.append(Normalise(_values(preprocessing.mean, dtype), _values(preprocessing.std, dtype), image))
    if network.form == "post":
        x = _post_activation(builder, network, image)
    else:
        x = _pre_activation(builder, network, image)
    channels = builder.buffers[x].channels
    builder.steps.append(GlobalAveragePool(x, builder.buffer("features", channels, 1, 1)))
    classifier = network.classifier
    builder.steps.append(Classify("features", _array(classifier.weight), _array(classifier.bias)))
    return Plan(
        buffers=tuple(builder.buffers.values()),
        steps=tuple(builder.steps),
        layers=tuple(builder.layers),
        classes=classifier.out_features,
    )


def shape_of(plan: Plan) -> NetworkShape:
    """What counts in a plan: the geometry that ``flops`` turns into MACs."""
    layers, ungated = [], 0
    for step in plan.steps:
        if isinstance(step, Classify):
            ungated += step.weight.size
        elif isinstance(step, Convolve):
            out = plan.buffer(step.raw or (step.activated.buffer if step.activated else ""))
            convolution = Convolution(
                step.weight.shape[1], step.weight.shape[0], step.weight.shape[2], out.height, out.width
            )
            if step.gate is None:
                ungated += convolution.macs
            else:
                groups, _, kernel, _ = step.gate.weight.shape
                layers.append(GatedConvolution(step.gate.name, convolution, kernel, groups))
    return NetworkShape(tuple(layers), ungated)


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
        self,
        name: str,
        source: str,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d | None,
        *,
        relu: bool,
        gate: GateModule | None = None,
        residual: Residual | None = None,
        raw: str | None = None,
        activated: str | None = None,
        activation: nn.BatchNorm2d | None = None,
    ) -> None:
        """Append a convolution; ``raw`` and ``activated`` name its outputs, ``activation`` is the latter's affine."""
        before = self.buffers[source]
        stride = int(conv.stride[0])
        height, width = -(-before.height // stride), -(-before.width // stride)
        for output in (raw, activated):
            if output is not None:
                self.buffer(output, conv.out_channels, height, width)
        lowered = None
        if gate is not None:
            lowered = Gate(name, len(self.layers), source, _array(gate.conv.weight), _affine(gate.norm))
            self.layers.append(name)
        self.steps.append(
            Convolve(
                name=name,
                input=source,
                weight=_array(conv.weight),
                stride=stride,
                affine=None if norm is None else _affine(norm),
                relu=relu,
                gate=lowered,
                residual=residual,
                raw=raw,
                activated=None
                if activated is None
                else Activated(activated, None if activation is None else _affine(activation)),
            )
        )

    def skip_conv(self, name: str, source: str, module: SkipConv, **outputs: object) -> None:
        self.convolve(
            name,
            source,
            module.conv,
            module.norm,
            relu=module.place == "norm_relu",
            gate=module.gate,
            **outputs,  # type: ignore[arg-type]
        )

    def shortcut(self, name: str, source: str, module: nn.Module, stride: int) -> Residual:
        if not isinstance(module, ProjectionShortcut):
            return Residual(source, stride)
        self.convolve(f"{name}.shortcut", source, module.conv, module.norm, relu=False, raw=f"{name}.shortcut")
        return Residual(f"{name}.shortcut")


def _post_activation(builder: _Builder, network: ResNet, image: str) -> str:
    builder.convolve("stem", image, network.stem_conv, network.stem_norm, relu=True, raw="stem")
    x = _stem_pool(builder, network, "stem")
    for index, block in enumerate(network.blocks):
        assert isinstance(block, PostActivationBlock)
        name = f"blocks.{index}"
        residual = builder.shortcut(name, x, block.shortcut, int(block.conv1.conv.stride[0]))
        builder.skip_conv(f"{name}.conv1", x, block.conv1, raw=f"{name}.h")
        builder.skip_conv(f"{name}.conv2", f"{name}.h", block.conv2, residual=residual, activated=f"{name}.out")
        x = f"{name}.out"
    return x


def _pre_activation(builder: _Builder, network: ResNet, image: str) -> str:
    """Each sum is kept raw for the next shortcut and activated for the next convolution."""
    blocks = [block for block in network.blocks if isinstance(block, PreActivationBlock)]
    norms = [block.norm1 for block in blocks] + [network.final_norm]
    builder.convolve(
        "stem", image, network.stem_conv, None, relu=False, raw="stem", activated="stem.a", activation=norms[0]
    )
    x, a = "stem", "stem.a"
    for index, block in enumerate(blocks):
        name = f"blocks.{index}"
        residual = builder.shortcut(name, x, block.shortcut, int(block.conv1.conv.stride[0]))
        builder.skip_conv(f"{name}.conv1", a, block.conv1, activated=f"{name}.b", activation=block.norm2)
        builder.skip_conv(
            f"{name}.conv2",
            f"{name}.b",
            block.conv2,
            residual=residual,
            raw=f"{name}.out" if index + 1 < len(blocks) else None,
            activated=f"{name}.a",
            activation=norms[index + 1],
        )
        x, a = f"{name}.out", f"{name}.a"
    return a


def _stem_pool(builder: _Builder, network: ResNet, source: str) -> str:
    if not network.stem.pool:
        return source
    before = builder.buffers[source]
    pooled = builder.buffer("stem.pool", before.channels, -(-before.height // 2), -(-before.width // 2))
    builder.steps.append(MaxPool(source, 3, 2, pooled))
    return pooled


def _affine(norm: nn.BatchNorm2d) -> Affine:
    """Evaluation-mode normalisation as a scale and shift; computed in float64, kept in the network's type."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.detach().double() - norm.running_mean.double() * scale
    return Affine(_array(scale.to(norm.weight.dtype)[None]), _array(shift.to(norm.weight.dtype)[None]))


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().contiguous().numpy().copy()


def _values(values: tuple[float, float, float], dtype: torch.dtype) -> Array:
    return _array(torch.tensor(values, dtype=dtype))
