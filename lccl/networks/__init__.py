"""The networks by name, and the architecture that describes one of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from lccl.errors import ArchitectureError, require
from lccl.json_values import read_fields
from lccl.networks.gates import GateSpec
from lccl.networks.resnet import Form, Layout, NetworkOutput, ResNet
from lccl.networks.split_conv import convert, read_split

__all__ = ["FORMS", "NETWORKS", "PLACEMENTS", "Architecture", "NetworkOutput", "ResNet", "build"]

# Sources: He et al. 2016, "Deep Residual Learning", section 4.2 (CIFAR, depth 6n + 2) and table 1 (ImageNet); He et al.
# 2016, "Identity Mappings" and its authors' code (resnet164, depth 9n + 2); Zagoruyko and Komodakis 2016, "Wide
# Residual Networks", table 1, without dropout, and its authors' code (wrn-depth-factor, depth 6n + 4). Smaller ones for
# photographs are resnet18 with fewer blocks (14 keeps both where resnet34 has most) or with narrower stages, named by
# the channels of the first: 0.7 and 0.5 of resnet18's 64, rounded to whole vectors of 16.
NETWORKS: dict[str, Layout] = {
    **{f"resnet{6 * n + 2}": Layout((n,) * 3, 16, ("post", "pre"), projection=False) for n in (3, 5, 7, 9, 18)},
    "resnet164": Layout((18,) * 3, 16, ("pre",), bottleneck=True),
    **{
        f"wrn-{6 * n + 4}-{factor}": Layout((n,) * 3, 16 * factor, ("pre",))
        for n, factor in ((2, 4), (3, 8), (4, 2), (4, 10), (6, 1), (6, 2), (6, 4), (8, 1))
    },
    "resnet10": Layout((1, 1, 1, 1), 64, ("post",), large=True),
    "resnet14": Layout((1, 2, 2, 1), 64, ("post",), large=True),
    "resnet18": Layout((2, 2, 2, 2), 64, ("post",), large=True),
    "resnet18-w32": Layout((2, 2, 2, 2), 32, ("post",), large=True),
    "resnet18-w48": Layout((2, 2, 2, 2), 48, ("post",), large=True),
    "resnet34": Layout((3, 4, 6, 3), 64, ("post",), large=True),
    "resnet50": Layout((3, 4, 6, 3), 64, ("post",), large=True, bottleneck=True),
}
# Block forms of each network, its default first.
FORMS = {name: layout.forms for name, layout in NETWORKS.items()}
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
        only, gated = FORMS[self.name][0], self.gate != "none"
        require(
            ArchitectureError,
            (self.form in ("post", "pre"), f"unknown block form {self.form!r}: use post, pre or auto"),
            (
                self.form in FORMS[self.name],
                f"{self.name} has the {only}-activation form only: use form {only} or auto",
            ),
            (
                isinstance(self.classes, int) and 1 < self.classes <= 100_000,
                f"a network needs 2 to 100,000 classes, not {self.classes!r}",
            ),
            (
                self.placement in PLACEMENTS,
                f"unknown placement {self.placement!r}: use one of {', '.join(PLACEMENTS)}",
            ),
            (
                gated or (self.placement == "aft-aft" and self.gate_norm),
                "a network without gates has neither a placement nor a normalisation of them",
            ),
            (
                self.form == "pre" or self.placement == "aft-aft",
                f"placement {self.placement} needs the pre-activation form: use form pre",
            ),
        )
        if self.split != "none":
            object.__setattr__(self, "split", str(read_split(self.split)))
        if gated:
            GateSpec.parse(self.gate)

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
        if not isinstance(value, dict) or value.get("form", "auto") == "auto" or "gate" not in value:
            raise ArchitectureError("an architecture names its gate and its form: use post or pre")
        return architecture


def build(architecture: Architecture) -> ResNet:
    """Build the network with fresh weights (He-normal convolutions, unit normalisation)."""
    gate = None
    if architecture.gate != "none":
        placement = PLACEMENTS[architecture.placement]
        gate = replace(GateSpec.parse(architecture.gate), norm=architecture.gate_norm, before=placement)
    layout, form = NETWORKS[architecture.name], cast(Form, architecture.form)
    network = ResNet(layout, form=form, gate=gate, classes=architecture.classes)
    if architecture.split != "none":
        convert(network, read_split(architecture.split))
    return network
