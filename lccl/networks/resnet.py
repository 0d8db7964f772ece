"""Residual networks of basic blocks with SkipConvs, in both block forms of the LCCL paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lccl.gates import GateSpec
from lccl.layers import SkipConv

Form = Literal["post", "pre"]


class NetworkOutput(NamedTuple):
    """Logits [N, classes], and each SkipConv's gate values [N, G, H, W] in the order of the thresholds' columns."""

    logits: Tensor
    gates: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Stem:
    """The first, never gated convolution: a ``kernel`` × ``kernel`` window, then perhaps a 3×3 max-pool of stride 2."""

    kernel: int
    stride: int
    pool: bool


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
    """Type B: a normalised 1×1 convolution where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x))
        return out


Shortcut = IdentityShortcut | ProjectionShortcut


class PostActivationBlock(nn.Module):
    """``h = ReLU(BN(conv1(x))) · g1(x);  z = BN(conv2(h)) · g2(h);  out = ReLU(z + shortcut(x))``."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, gate: GateSpec | None, shortcut: Shortcut
    ) -> None:
        super().__init__()
        self.conv1 = SkipConv(in_channels, out_channels, 3, stride, "norm_relu", gate)
        self.conv2 = SkipConv(out_channels, out_channels, 3, 1, "norm", gate)
        self.shortcut = shortcut

    def forward(self, x: Tensor, first: Tensor | None, second: Tensor | None) -> tuple[Tensor, list[Tensor | None]]:
        h, gate1 = self.conv1(x, first)
        z, gate2 = self.conv2(h, second)
        return torch.relu(z + self.shortcut(x)), [gate1, gate2]


class PreActivationBlock(nn.Module):
    """``a = ReLU(BN(x));  b = ReLU(BN(conv1(a) · g1(a)));  out = conv2(b) · g2(b) + shortcut(x)``."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, gate: GateSpec | None, shortcut: Shortcut
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = SkipConv(in_channels, out_channels, 3, stride, "bare", gate)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = SkipConv(out_channels, out_channels, 3, 1, "bare", gate)
        self.shortcut = shortcut

    def forward(self, x: Tensor, first: Tensor | None, second: Tensor | None) -> tuple[Tensor, list[Tensor | None]]:
        y, gate1 = self.conv1(torch.relu(self.norm1(x)), first)
        z, gate2 = self.conv2(torch.relu(self.norm2(y)), second)
        return z + self.shortcut(x), [gate1, gate2]


class ResNet(nn.Module):
    """A stem, stages of basic blocks, global average pooling and a linear classifier.

    ``image_size`` is the height and width, in pixels, of the pictures the network is made for.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        depths: Sequence[int],
        stem: Stem,
        form: Form,
        gate: GateSpec | None,
        projection: bool,
        classes: int,
        image_size: int,
    ) -> None:
        super().__init__()
        self.form, self.stem, self.image_size = form, stem, image_size
        self.stem_conv = nn.Conv2d(3, widths[0], stem.kernel, stem.stride, stem.kernel // 2, bias=False)
        nn.init.kaiming_normal_(self.stem_conv.weight, mode="fan_in", nonlinearity="relu")
        self.stem_norm = nn.BatchNorm2d(widths[0]) if form == "post" else None
        self.blocks = nn.ModuleList()
        channels = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for position in range(depth):
                stride = 2 if stage > 0 and position == 0 else 1
                reshapes = stride > 1 or channels != width
                kind = ProjectionShortcut if projection and reshapes else IdentityShortcut
                block = PostActivationBlock if form == "post" else PreActivationBlock
                self.blocks.append(block(channels, width, stride, gate, kind(channels, width, stride)))
                channels = width
        self.final_norm = nn.BatchNorm2d(channels) if form == "pre" else None
        self.classifier = nn.Linear(channels, classes)

    @property
    def skip_convs(self) -> dict[str, SkipConv]:
        """The gated convolutions by name, in the order of the thresholds' columns; empty for a plain twin."""
        named = {name: module for name, module in self.named_modules() if isinstance(module, SkipConv)}
        return {name: module for name, module in named.items() if module.gate is not None}

    def forward(self, images: Tensor, thresholds: Tensor | None = None) -> NetworkOutput:
        """Classify normalised images [N, 3, H, W]; ``thresholds`` [N, L], None means exact everywhere."""
        columns: Sequence[Tensor | None] = [None] * 2 * len(self.blocks)
        if thresholds is not None and thresholds.shape[1]:
            columns = thresholds.unbind(1)
        x = self.stem_conv(images)
        if self.stem_norm is not None:
            x = torch.relu(self.stem_norm(x))
        if self.stem.pool:
            x = F.max_pool2d(x, 3, 2, 1)
        gates: list[Tensor | None] = []
        for index, block in enumerate(self.blocks):
            x, found = block(x, columns[2 * index], columns[2 * index + 1])
            gates += found
        if self.final_norm is not None:
            x = torch.relu(self.final_norm(x))
        logits = self.classifier(x.mean(dim=(2, 3)))
        return NetworkOutput(logits, tuple(gate for gate in gates if gate is not None))
