"""The networks by name, and the architecture that describes one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

from lccl.errors import ArchitectureError
from lccl.json_values import read_fields
from lccl.networks.cifar import cifar_bottleneck_resnet, cifar_resnet
from lccl.networks.gates import GateSpec
from lccl.networks.imagenet import imagenet_resnet
from lccl.networks.resnet import Form, NetworkOutput, ResNet
from lccl.networks.split_conv import convert, read_split
from lccl.networks.wide import wide_resnet

__all__ = ["FORMS", "NETWORKS", "PLACEMENTS", "Architecture", "NetworkOutput", "ResNet", "build"]

NETWORKS: dict[str, Callable[..., ResNet]] = {
    **{f"resnet{depth}": partial(cifar_resnet, depth) for depth in (20, 32, 44, 56, 110)},
    "resnet164": partial(cifar_bottleneck_resnet, 164),
    "wrn-16-4": partial(wide_resnet, 16, 4),
    "wrn-22-8": partial(wide_resnet, 22, 8),
    "wrn-28-2": partial(wide_resnet, 28, 2),
    "wrn-28-10": partial(wide_resnet, 28, 10),
    "wrn-40-1": partial(wide_resnet, 40, 1),
    "wrn-40-2": partial(wide_resnet, 40, 2),
    "wrn-40-4": partial(wide_resnet, 40, 4),
    "wrn-52-1": partial(wide_resnet, 52, 1),
    **{f"resnet{depth}": partial(imagenet_resnet, depth) for depth in (18, 34, 50)},
}
# Block forms of each network, its default first.
FORMS: dict[str, tuple[Form, ...]] = {
    name: ("pre",) if name == "resnet164" or name.startswith("wrn-")
    else ("post",) if name in ("resnet18", "resnet34", "resnet50")
    else ("post", "pre")
    for name in NETWORKS
}  # fmt: skip
# Whether the gates of a pre-activation block's first and second gated convolution read before BN + ReLU.
PLACEMENTS = {
    "aft-aft": (False, False),
    "aft-bef": (False, True),
    "bef-bef": (True, True),
    "bef-aft": (True, False),
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """What it takes to build a network: its name, block form, gates and number of classes.

    Attributes:
        form: ``post`` or ``pre`` activation; ``auto`` becomes the network's usual one at once.
        gate: a text that :meth:`GateSpec.parse` reads, or ``none`` for the plain twin.
        placement: what the gates of a pre-activation block read, the first's word and the second's: ``aft`` the
            tensor after BN + ReLU, as the convolution does, or ``bef`` the one before. In a bottleneck the first gate
            is that of the 3×3 convolution, the second that of the last 1×1.
        gate_norm: whether gates are normalised: ReLU(BN(conv)), else ReLU(conv).
        split: ``none``, or the share α of channels that the blocks' 3×3 convolutions are split at, such as ``1/2``.

    Source: Dong et al., "More is Less", CVPR 2017 (placements, kinds of collaborative layer); Zhang et al., "Split to
    Be Slim", IJCAI 2020 (split).

    """

    name: str
    form: str = "auto"
    gate: str = "shared"
    classes: int = 10
    placement: str = "aft-aft"
    gate_norm: bool = True
    split: str = "none"

    def __post_init__(self) -> None:
        if self.name not in NETWORKS:
            raise ArchitectureError(f"unknown network {self.name!r}: use one of {', '.join(NETWORKS)}")
        if self.form == "auto":
            object.__setattr__(self, "form", FORMS[self.name][0])
        if self.form not in ("post", "pre"):
            raise ArchitectureError(f"unknown block form {self.form!r}: use post, pre or auto")
        if self.form not in FORMS[self.name]:
            only = FORMS[self.name][0]
            raise ArchitectureError(f"{self.name} has the {only}-activation form only: use form {only} or auto")
        if not isinstance(self.classes, int) or not 1 < self.classes <= 100_000:
            raise ArchitectureError(f"a network needs 2 to 100,000 classes, not {self.classes!r}")
        if self.split != "none":
            object.__setattr__(self, "split", str(read_split(self.split)))
        self._check_gates()

    def _check_gates(self) -> None:
        if self.placement not in PLACEMENTS:
            raise ArchitectureError(f"unknown placement {self.placement!r}: use one of {', '.join(PLACEMENTS)}")
        if self.gate != "none":
            GateSpec.parse(self.gate)
        elif self.placement != "aft-aft" or not self.gate_norm:
            raise ArchitectureError("a network without gates has neither a placement nor a normalisation of them")
        if self.form == "post" and self.placement != "aft-aft":
            raise ArchitectureError(f"placement {self.placement} needs the pre-activation form: use form pre")

    @property
    def plain_twin(self) -> Architecture:
        """The same network without gates; split convolutions stay split."""
        return Architecture(self.name, self.form, "none", self.classes, split=self.split)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Architecture:
        """Read what :meth:`to_json` wrote, now or before an architecture had its later fields.

        Raises:
            ArchitectureError: anything else.

        """
        try:
            architecture = read_fields(cls, value)
        except TypeError as error:
            raise ArchitectureError(f"an architecture is not readable: {error}") from error
        if not isinstance(value, dict) or value.get("form", "auto") == "auto":
            raise ArchitectureError("an architecture names its form: use post or pre")
        return architecture


def build(architecture: Architecture) -> ResNet:
    """Build the network with fresh weights (He-normal convolutions, unit normalisation)."""
    gate = None
    if architecture.gate != "none":
        placement = PLACEMENTS[architecture.placement]
        gate = replace(GateSpec.parse(architecture.gate), norm=architecture.gate_norm, before=placement)
    network = NETWORKS[architecture.name](form=cast(Form, architecture.form), gate=gate, classes=architecture.classes)
    if architecture.split != "none":
        convert(network, read_split(architecture.split))
    return network
