"""CIFAR ResNets (He et al. 2016): basic blocks of depth 6n + 2, and pre-activation bottlenecks of depth 9n + 2."""

from __future__ import annotations

from lccl.networks.gates import GateSpec
from lccl.networks.resnet import Form, ResNet, Stem


def cifar_resnet(depth: int, *, form: Form, gate: GateSpec | None, classes: int) -> ResNet:
    """Build the network of the given ``depth`` (20, 32, 44, 56, 110) for 32 × 32 images.

    16, 32 and 64 channels, type-A shortcuts. Source: "Deep Residual Learning", section 4.2.
    """
    return ResNet(
        widths=(16, 32, 64),
        depths=((depth - 2) // 6,) * 3,
        stem=Stem(channels=16, kernel=3, stride=1, pool=False),
        form=form,
        gate=gate,
        projection=False,
        classes=classes,
        image_size=32,
    )


def cifar_bottleneck_resnet(depth: int, *, form: Form, gate: GateSpec | None, classes: int) -> ResNet:
    """Build the pre-activation bottleneck network of the given ``depth`` (164) for 32 × 32 images.

    64, 128 and 256 channels between blocks; where the shape changes, the shortcut is a 1×1 convolution of the
    activated input. Source: "Identity Mappings in Deep Residual Networks" and its authors' code.
    """
    return ResNet(
        widths=(16, 32, 64),
        depths=((depth - 2) // 9,) * 3,
        stem=Stem(channels=16, kernel=3, stride=1, pool=False),
        form=form,
        gate=gate,
        projection=True,
        bottleneck=True,
        classes=classes,
        image_size=32,
    )
