"""Residual networks of basic blocks or bottlenecks with SkipConvs, in both block forms of the LCCL paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lccl.networks.gates import GateSpec
from lccl.networks.sidenet import SideNets, SideNetSpec, sidenets_for
from lccl.networks.skip_conv import Activation, SkipConv

Form = Literal["post", "pre"]
# Activations of a block's last convolution, and of those before it first.
_ACTIVATIONS: dict[Form, tuple[Activation, Activation]] = {"post": ("norm_relu", "norm"), "pre": ("bare", "bare")}


class NetworkOutput(NamedTuple):
    """Logits [N, classes], and each SkipConv's gate values [N, G, H, W] in the order of the thresholds' columns."""

    logits: Tensor
    gates: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """What sets one network apart from the others.

    Attributes:
        depths: residual blocks of each stage.
        width: channels of the first stage's 3×3 convolutions; each stage has twice those of the stage before.
        forms: the block forms that it is known in, its default first.
        projection: whether a shortcut is a 1×1 convolution where the shape changes, else type A.
        bottleneck: whether a block has 1×1, 3×3 and 1×1 convolutions and gives out four times its width; else 3×3
            and 3×3.
        large: made for 224 × 224 images, with a stem as wide as the first stage, a 7×7 convolution of stride 2 and a
            max-pool; else for 32 × 32 images, with a stem of 16 channels and a 3×3 convolution. The stem is never
            gated.

    """

    depths: tuple[int, ...]
    width: int
    forms: tuple[Form, ...]
    projection: bool = True
    bottleneck: bool = False
    large: bool = False


class IdentityShortcut(nn.Module):
    """Type A: the input at every ``stride``-th position, new channels 0. He et al. 2016, section 4.2."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride, self.new_channels = stride, out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.new_channels)) if self.new_channels else x


class ProjectionShortcut(nn.Module):
    """Type B: a 1×1 convolution where the shape changes, normalised in the post-activation form."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.norm = nn.BatchNorm2d(out_channels) if norm else None
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out if self.norm is None else self.norm(out)


class Block(nn.Module):
    """Convolutions ``conv1``, ``conv2``, …, each after a normalisation where there are any, and a shortcut."""

    def __init__(
        self, convs: Sequence[SkipConv], shortcut: IdentityShortcut | ProjectionShortcut, *, norms: bool = False
    ) -> None:
        super().__init__()
        for number, conv in enumerate(convs, 1):
            if norms:
                self.add_module(f"norm{number}", nn.BatchNorm2d(conv.conv.in_channels))
            self.add_module(f"conv{number}", conv)
        self.shortcut = shortcut

    @property
    def convs(self) -> dict[str, SkipConv]:
        """The convolutions by name, in their order."""
        return {name: module for name, module in self.named_children() if isinstance(module, SkipConv)}

    @property
    def out_channels(self) -> int:
        """What the last convolution gives out."""
        return list(self.convs.values())[-1].conv.out_channels

    @property
    def projects(self) -> bool:
        """Whether the shortcut is a convolution."""
        return isinstance(self.shortcut, ProjectionShortcut)


class PostActivationBlock(Block):
    """``h = ReLU(BN(conv1(x))) · g1(x);  z = BN(conv2(h)) · g2(h);  out = ReLU(z + shortcut(x))``.

    A bottleneck has a third convolution, and h twice. Where a convolution has no gate, g is 1.
    """

    def forward(self, x: Tensor, thresholds: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the output and the gates' values; ``thresholds`` start with this block's columns, or are empty."""
        gates: list[Tensor] = []
        y = x
        for conv in self.convs.values():
            y, gate = conv(y, _column(thresholds, len(gates), conv))
            gates += [] if gate is None else [gate]
        return torch.relu(y + self.shortcut(x)), gates


class PreActivationBlock(Block):
    """``a = ReLU(BN(x));  y = conv1(a) · g1;  b = ReLU(BN(y));  out = conv2(b) · g2 + shortcut``.

    A bottleneck has a third convolution, and y and b twice. Where a convolution has no gate, g is 1. A gate reads its
    convolution's input (a or b), or where ``before`` says so that before normalisation and ReLU (x or y). An identity
    shortcut starts at x, a projection at a.

    Args:
        before: for each gate in turn, whether it reads the tensor before normalisation and ReLU.

    Attributes:
        before: the same for each convolution, False where it has no gate.

    """

    def __init__(
        self,
        convs: Sequence[SkipConv],
        shortcut: IdentityShortcut | ProjectionShortcut,
        before: Sequence[bool],
    ) -> None:
        super().__init__(convs, shortcut, norms=True)
        words = iter(before)
        self.before = tuple(conv.gate is not None and next(words) for conv in convs)

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        """What stands before each convolution."""
        return [module for module in self.children() if isinstance(module, nn.BatchNorm2d)]

    def forward(self, x: Tensor, thresholds: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the output and the gates' values; ``thresholds`` start with this block's columns, or are empty."""
        gates: list[Tensor] = []
        y = shortcut = x
        for conv, norm, before in zip(self.convs.values(), self.norms, self.before, strict=True):
            activated = torch.relu(norm(y))
            if y is x:
                shortcut = self.shortcut(activated if self.projects else x)
            y, gate = conv(activated, _column(thresholds, len(gates), conv), y if before else activated)
            gates += [] if gate is None else [gate]
        return y + shortcut, gates


def _block(
    layout: Layout, form: Form, gate: GateSpec | None, in_channels: int, width: int, stride: int
) -> PostActivationBlock | PreActivationBlock:
    """A block whose 3×3 convolutions have ``width`` channels.

    Bottlenecks: in the post-activation form stride and gate are on the 3×3; in the pre-activation form the stride is on
    the first 1×1, gates on both others. A pointwise gate on a 1×1 convolution would cost as much as the convolution, so
    there is none. Sources: torchvision's ResNet-50 v1.5; He et al. 2016, "Identity Mappings", ResNet-164, gated as in
    the LCCL paper.
    """
    post, out = form == "post", 4 * width if layout.bottleneck else width
    first, last = _ACTIVATIONS[form]
    shortcut: IdentityShortcut | ProjectionShortcut
    if layout.projection and (stride > 1 or in_channels != out):
        shortcut = ProjectionShortcut(in_channels, out, stride, norm=post)
    else:
        shortcut = IdentityShortcut(in_channels, out, stride)
    if layout.bottleneck:
        convs = [
            SkipConv(in_channels, width, 1, 1 if post else stride, first, None),
            SkipConv(width, width, 3, stride if post else 1, first, gate),
            SkipConv(width, out, 1, 1, last, None if post or gate is None or gate.kind == "pointwise" else gate),
        ]
    else:
        convs = [SkipConv(in_channels, width, 3, stride, first, gate), SkipConv(width, width, 3, 1, last, gate)]
    if post:
        return PostActivationBlock(convs, shortcut)
    return PreActivationBlock(convs, shortcut, (False, False) if gate is None else gate.before)


def _column(thresholds: Sequence[Tensor], number: int, conv: SkipConv) -> Tensor | None:
    return thresholds[number] if thresholds and conv.gate is not None else None


class ResNet(nn.Module):
    """A stem, stages of residual blocks, global average pooling and a linear classifier; perhaps SideNets beside it.

    ``image_size`` is the height and width, in pixels, of the images the network is made for.
    """

    def __init__(self, layout: Layout, *, form: Form, gate: GateSpec | None, classes: int) -> None:
        super().__init__()
        self.form, self.large, self.image_size = form, layout.large, 224 if layout.large else 32
        channels, kernel, stride = (layout.width, 7, 2) if layout.large else (16, 3, 1)
        self.stem_conv = nn.Conv2d(3, channels, kernel, stride, kernel // 2, bias=False)
        nn.init.kaiming_normal_(self.stem_conv.weight, mode="fan_in", nonlinearity="relu")
        self.stem_norm = nn.BatchNorm2d(channels) if form == "post" else None
        self.blocks = nn.ModuleList()
        for stage, depth in enumerate(layout.depths):
            for position in range(depth):
                stride = 2 if stage > 0 and position == 0 else 1
                block = _block(layout, form, gate, channels, layout.width << stage, stride)
                self.blocks.append(block)
                channels = block.out_channels
        self.final_norm = nn.BatchNorm2d(channels) if form == "pre" else None
        self.classifier = nn.Linear(channels, classes)
        self.sidenets = SideNets()

    def add_sidenets(self, specs: Sequence[SideNetSpec]) -> None:
        """Put fresh SideNets beside the network, in place of any that it has.

        Raises:
            ArchitectureError: they do not fit this network.

        """
        self.sidenets = sidenets_for(specs, self.block_channels, self.classifier.out_features)

    @property
    def block_channels(self) -> list[int]:
        """How many channels each block gives out."""
        return [block.out_channels for block in self.blocks if isinstance(block, Block)]

    @property
    def skip_convs(self) -> dict[str, SkipConv]:
        """The gated convolutions by name, in the order of the thresholds' columns; empty for a plain twin."""
        named = {name: module for name, module in self.named_modules() if isinstance(module, SkipConv)}
        return {name: module for name, module in named.items() if module.gate is not None}

    def forward(self, images: Tensor, thresholds: Tensor | None = None) -> NetworkOutput:
        """Classify normalised images [N, 3, H, W]; ``thresholds`` [N, L], None means exact everywhere.

        No image leaves early here, whatever SideNets there are: engines do that.
        """
        return self.with_features(images, thresholds)[0]

    def with_features(
        self, images: Tensor, thresholds: Tensor | None = None
    ) -> tuple[NetworkOutput, tuple[Tensor, ...]]:
        """Classify as :meth:`forward` does, and give what each SideNet's hidden layer reads, [N, C · grid²]."""
        columns = () if thresholds is None else thresholds.unbind(1)
        x = self.stem_conv(images)
        if self.stem_norm is not None:
            x = torch.relu(self.stem_norm(x))
        if self.large:
            x = F.max_pool2d(x, 3, 2, 1)
        gates: list[Tensor] = []
        readers = {side.spec.after: side for side in self.sidenets}
        features: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            x, block_gates = block(x, columns[len(gates) :])
            gates += block_gates
            if number in readers:
                features.append(readers[number].pool(self._activated(number, x)))
        if self.final_norm is not None:
            x = torch.relu(self.final_norm(x))
        logits = self.classifier(x.mean(dim=(2, 3)))
        return NetworkOutput(logits, tuple(gates)), tuple(features)

    def _activated(self, block: int, x: Tensor) -> Tensor:
        """A block's output as the block after it sees it."""
        if self.final_norm is None:
            return x
        following = list(self.blocks)[block + 1 : block + 2]
        norm = following[0].norms[0] if following and isinstance(following[0], PreActivationBlock) else self.final_norm
        return torch.relu(norm(x))
