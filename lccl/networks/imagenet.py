"""ImageNet ResNets (He et al. 2016, table 1): 64 to 512 channels, four times as many for bottlenecks, projections."""

from __future__ import annotations

from lccl.networks.gates import GateSpec
from lccl.networks.resnet import Form, ResNet, Stem

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def imagenet_resnet(depth: int, *, form: Form, gate: GateSpec | None, classes: int) -> ResNet:
    """Build the network of the given ``depth`` (18 or 34; 50 of bottlenecks) for 224 × 224 images."""
    return ResNet(
        widths=(64, 128, 256, 512),
        depths=DEPTHS[depth],
        stem=Stem(channels=64, kernel=7, stride=2, pool=True),
        form=form,
        gate=gate,
        projection=True,
        bottleneck=depth >= 50,
        classes=classes,
        image_size=224,
    )
