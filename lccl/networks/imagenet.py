"""ImageNet ResNets of basic blocks (He et al. 2016, table 1): 64 to 512 channels, projection shortcuts."""

from __future__ import annotations

from lccl.errors import ArchitectureError
from lccl.gates import GateSpec
from lccl.networks.resnet import Form, ResNet, Stem

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def imagenet_resnet(depth: int, *, form: Form, gate: GateSpec | None, classes: int) -> ResNet:
    """Build the network of the given ``depth`` (18 or 34) for 224 × 224 images.

    Raises:
        ArchitectureError: the pre-activation form, which these networks do not have here.

    """
    if form != "post":
        raise ArchitectureError(f"resnet{depth} has the post-activation form only")
    return ResNet(
        widths=(64, 128, 256, 512),
        depths=DEPTHS[depth],
        stem=Stem(kernel=7, stride=2, pool=True),
        form=form,
        gate=gate,
        projection=True,
        classes=classes,
        image_size=224,
    )
