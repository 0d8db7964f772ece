"""Wide ResNets for CIFAR (Zagoruyko and Komodakis 2016): pre-activation basic blocks, k times as wide."""

from __future__ import annotations

from lccl.networks.gates import GateSpec
from lccl.networks.resnet import Form, ResNet, Stem


def wide_resnet(depth: int, factor: int, *, form: Form, gate: GateSpec | None, classes: int) -> ResNet:
    """Build WRN-``depth``-``factor`` for 32 × 32 images: ``depth`` is 6n + 4, with n blocks a stage.

    16k, 32k and 64k channels after a stem of 16, no dropout; where the shape changes, the shortcut is a 1×1
    convolution of the activated input. Source: "Wide Residual Networks", table 1, and its authors' code.
    """
    return ResNet(
        widths=(16 * factor, 32 * factor, 64 * factor),
        depths=((depth - 4) // 6,) * 3,
        stem=Stem(channels=16, kernel=3, stride=1, pool=False),
        form=form,
        gate=gate,
        projection=True,
        classes=classes,
        image_size=32,
    )
