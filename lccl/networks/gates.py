"""Gates: the low-cost collaborative layers that decide which cells of a convolution are computed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lccl.errors import ArchitectureError

Kind = Literal["shared", "pointwise", "grouped"]
_GROUPS = re.compile("[1-9][0-9]{0,5}")


@dataclass(frozen=True, slots=True)
class GateSpec:
    """The kind of gate that a network carries; each convolution turns it into a kernel and groups.

    - ``shared``: the convolution's own k×k kernel, one map for all T channels (k, 1).
    - ``pointwise``: a 1×1 kernel, a map per channel (1, T).
    - ``grouped``: ``groups`` maps, each for T / groups neighbouring channels; kernel k×k or 1×1.

    Source: Dong et al., "More is Less", CVPR 2017, section 3; the grouped kind lies between its two.

    Attributes:
        norm: whether the gate's convolution is normalised before its ReLU.
        before: of a pre-activation block's first and second gate, whether it reads its convolution's input as it is
            before normalisation and ReLU.

    """

    kind: Kind
    groups: int = 1
    one_by_one: bool = False
    norm: bool = True
    before: tuple[bool, bool] = (False, False)

    @classmethod
    def parse(cls, text: str) -> GateSpec:
        """Read ``shared``, ``pointwise``, ``grouped:G`` or ``grouped:G:1x1``.

        Raises:
            ArchitectureError: the text is none of these.

        """
        match text.split(":"):
            case ["shared"]:
                return cls("shared")
            case ["pointwise"]:
                return cls("pointwise", one_by_one=True)
            case ["grouped", groups] if _GROUPS.fullmatch(groups):
                return cls("grouped", int(groups))
            case ["grouped", groups, "1x1"] if _GROUPS.fullmatch(groups):
                return cls("grouped", int(groups), one_by_one=True)
        raise ArchitectureError(f"unknown gate {text[:40]!r}: use shared, pointwise, grouped:G or grouped:G:1x1")

    def kernel_for(self, kernel: int) -> int:
        """Kernel size of the gate of a convolution with a ``kernel`` × ``kernel`` window."""
        return 1 if self.one_by_one else kernel

    def groups_for(self, out_channels: int) -> int:
        """Number of maps of the gate of a convolution with ``out_channels`` outputs.

        Raises:
            ArchitectureError: the groups do not divide the channels.

        """
        groups = out_channels if self.kind == "pointwise" else self.groups
        if out_channels % groups:
            raise ArchitectureError(f"{groups} gate groups do not divide {out_channels} channels")
        return groups


class Gate(nn.Module):
    """``g = ReLU(BN(conv(x)))``: [N, C, H, W] → [N, groups, H / stride, W / stride], never negative.

    Without ``norm`` it is ``ReLU(conv(x))``.
    The normalisation's shift starts at ``initial_shift``, so that a fresh gate is mostly open and
    still reaches zero; a gate that starts closed gets no gradient and never opens.
    """

    def __init__(
        self,
        in_channels: int,
        kernel: int,
        groups: int,
        stride: int,
        initial_shift: float = 1.0,
        *,
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.kernel, self.groups, self.stride = kernel, groups, stride
        self.conv = nn.Conv2d(in_channels, groups, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(groups) if norm else None
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_in", nonlinearity="relu")
        if self.norm is not None:
            nn.init.constant_(self.norm.bias, initial_shift)
        else:
            # It follows its input's scale: products of such gates and their convolutions would grow with depth.
            self.conv.weight.data *= 0.1

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        return torch.relu(maps if self.norm is None else self.norm(maps))
