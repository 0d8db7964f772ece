"""CIFAR ResNets of depth 6n + 2 (He et al. 2016, section 4.2): 16, 32 and 64 channels, type-A shortcuts."""

from __future__ import annotations

from lccl.gates import GateSpec
from lccl.networks.resnet import Form, ResNet, Stem


def cifar_resnet(depth: int, *, form: Form, gate: GateSpec | None, classes: int) -> ResNet:
    """Build the network of the given ``depth`` (20, 32, 44, 56, 110) for 32 × 32 images."""
    blocks = (depth - 2) // 6
    return ResNet(
        widths=(16, 32, 64),
        depths=(blocks,) * 3,
        stem=Stem(kernel=3, stride=1, pool=False),
        form=form,
        gate=gate,
        projection=False,
        classes=classes,
        image_size=32,
    )
