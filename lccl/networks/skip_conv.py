"""SkipConv: a convolution and its gate; the unit whose cells an engine may leave out."""

from typing import Literal

import torch
from torch import Tensor, nn

from lccl.networks.gates import Gate, GateSpec
from lccl.networks.split_conv import SplitConv

Activation = Literal["norm_relu", "norm", "bare"]


class SkipConv(nn.Module):
    """``f(conv(x)) · g`` where ``g > threshold``, else 0. Without a gate: ``f(conv(x))``.

    ``activation`` names f: ``norm_relu`` (first convolution of a post-activation block), ``norm`` (its
    second) or ``bare`` (pre-activation block, where normalisation follows the product).

    ``conv`` may become a :class:`SplitConv` (:func:`lccl.networks.split_conv.convert`).

    This is the trainable form: every cell is computed, then masked. Engines skip.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        activation: Activation,
        gate: GateSpec | None,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.conv: nn.Conv2d | SplitConv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.norm = None if activation == "bare" else nn.BatchNorm2d(out_channels)
        self.gate = (
            None
            if gate is None
            else Gate(in_channels, gate.kernel_for(kernel), gate.groups_for(out_channels), stride, norm=gate.norm)
        )
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_in", nonlinearity="relu")

    def forward(
        self, x: Tensor, threshold: Tensor | None = None, gate_input: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output [N, T, H, W] and the gate's values [N, G, H, W] (None without a gate).

        Args:
            x: input [N, C, H, W].
            threshold: one value per image, [N]; None means 0 (exact).
            gate_input: what the gate reads, [N, C, H, W]; None means ``x``.

        """
        y = self.conv(x)
        if self.norm is not None:
            y = self.norm(y)
        if self.activation == "norm_relu":
            y = torch.relu(y)
        if self.gate is None:
            return y, None
        gate: Tensor = self.gate(x if gate_input is None else gate_input)
        kept = gate if threshold is None else gate * (gate > threshold[:, None, None, None])
        if 1 < self.gate.groups < self.conv.out_channels:
            kept = kept.repeat_interleave(self.conv.out_channels // self.gate.groups, dim=1)
        return y * kept, gate
