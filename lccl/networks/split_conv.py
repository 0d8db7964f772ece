"""SPConv: a convolution split into channels that pass a 3×3 window and channels that pass a 1×1 one."""

import re
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lccl.errors import ArchitectureError
from lccl.networks.gates import Gate

GROUPS = 2
IMAGE_CHANNELS = 3
_RATIO = re.compile("[1-9][0-9]{0,2}/[1-9][0-9]{0,2}")


def read_split(text: str) -> Fraction:
    """Read a split ratio such as ``1/2``.

    Raises:
        ArchitectureError: the text is no fraction between 0 and 1.

    """
    ratio = Fraction(text) if _RATIO.fullmatch(text) else Fraction(0)
    if not 0 < ratio < 1:
        raise ArchitectureError(f"unknown split {text[:40]!r}: use none, or a fraction below 1 such as 1/2 or 1/4")
    return ratio


class SplitConv(nn.Module):
    """Replaces a 3×3 convolution with padding 1 and no bias: [N, C, H, W] → [N, T, ⌈H / s⌉, ⌈W / s⌉].

    The first αC channels, rounded down to a multiple of ``GROUPS``, are the representative ones::

        u3 = BN(conv3×3(representative) + conv1×1(pool(representative)))      conv3×3 with groups 2 and stride s
        u1 = BN(conv1×1(pool(rest)))
        out = β·u3 + (1 − β)·u1,   β = e^mean(u3) / (e^mean(u3) + e^mean(u1)) per image and channel

    ``pool`` is the mean of s × s inputs, at an odd border of those there are. Weights start He-normal.

    Source: Zhang et al., "Split to Be Slim: An Overlooked Redundancy in Vanilla Convolution", IJCAI 2020.

    Args:
        in_channels: C.
        out_channels: T.
        stride: s.
        alpha: the share of representative channels.

    Raises:
        ArchitectureError: the channels cannot be split like that.

    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, alpha: Fraction | float) -> None:
        super().__init__()
        representative = _representative(in_channels, out_channels, alpha)
        rest = in_channels - representative
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = (3, 3), (stride, stride)
        self.window = nn.Conv2d(representative, out_channels, 3, stride, 1, groups=GROUPS, bias=False)
        self.pointwise = nn.Conv2d(representative, out_channels, 1, bias=False)
        self.window_norm = nn.BatchNorm2d(out_channels)
        self.rest = nn.Conv2d(rest, out_channels, 1, bias=False)
        self.rest_norm = nn.BatchNorm2d(out_channels)
        for conv in (self.window, self.pointwise, self.rest):
            nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        count, stride = self.window.in_channels, self.stride[0]
        pooled = F.avg_pool2d(x, stride, ceil_mode=True) if stride > 1 else x
        u3: Tensor = self.window_norm(self.window(x[:, :count]) + self.pointwise(pooled[:, :count]))
        u1: Tensor = self.rest_norm(self.rest(pooled[:, count:]))
        # The softmax over two is the logistic function of their difference.
        beta = torch.sigmoid((u3 - u1).mean(dim=(2, 3), keepdim=True))
        return beta * u3 + (1 - beta) * u1


def convert(network: nn.Module, alpha: Fraction | float) -> None:
    """Replace, in place, every 3×3 convolution of a network by a :class:`SplitConv` with fresh weights.

    Gates stay, and so do convolutions of images (three channels), of groups, of other kernels, and those that have a
    bias, a dilation, different strides or another padding than one row of zeros.

    Raises:
        ArchitectureError: a convolution cannot be split like that, or there is none; the network is as it was.

    """
    convs = [
        (parent, name, child)
        for parent in network.modules() if not isinstance(parent, Gate)
        for name, child in parent.named_children() if isinstance(child, nn.Conv2d) and _is_plain(child)
    ]  # fmt: skip
    if not convs:
        raise ArchitectureError("the network has no 3×3 convolution that can be split")
    for _, _, conv in convs:
        _representative(conv.in_channels, conv.out_channels, alpha)
    for parent, name, conv in convs:
        split = SplitConv(conv.in_channels, conv.out_channels, conv.stride[0], alpha)
        setattr(parent, name, split.to(conv.weight).train(conv.training))


def _is_plain(conv: nn.Conv2d) -> bool:
    shape = (conv.kernel_size, conv.padding, conv.dilation, conv.groups, conv.bias, conv.padding_mode)
    usual = shape == ((3, 3), (1, 1), (1, 1), 1, None, "zeros") and conv.stride[0] == conv.stride[1]
    return usual and conv.in_channels > IMAGE_CHANNELS


def _representative(in_channels: int, out_channels: int, alpha: Fraction | float) -> int:
    """How many channels pass the 3×3 window."""
    if not 0 < alpha < 1:
        raise ArchitectureError(f"a split ratio lies between 0 and 1, not {alpha}")
    count = GROUPS * int(Fraction(alpha).limit_denominator(999) * in_channels / GROUPS)
    if not count:
        raise ArchitectureError(f"{alpha} of {in_channels} channels are fewer than {GROUPS} groups: split off more")
    if out_channels % GROUPS:
        raise ArchitectureError(f"{GROUPS} groups do not divide {out_channels} channels: they cannot be split")
    return count
