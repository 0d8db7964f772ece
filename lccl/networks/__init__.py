"""The networks by name, and the architecture that describes one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any, cast

from lccl.errors import ArchitectureError
from lccl.gates import GateSpec
from lccl.networks.cifar import cifar_resnet
from lccl.networks.imagenet import imagenet_resnet
from lccl.networks.resnet import Form, NetworkOutput, ResNet

__all__ = ["NETWORKS", "Architecture", "NetworkOutput", "ResNet", "build"]

NETWORKS: dict[str, Callable[..., ResNet]] = {
    **{f"resnet{depth}": partial(cifar_resnet, depth) for depth in (20, 32, 44, 56, 110)},
    **{f"resnet{depth}": partial(imagenet_resnet, depth) for depth in (18, 34)},
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """What it takes to build a network: its name, block form, gates and number of classes.

    ``gate`` is a text that :meth:`GateSpec.parse` reads, or ``none`` for the plain twin.
    """

    name: str
    form: str = "post"
    gate: str = "shared"
    classes: int = 10

    def __post_init__(self) -> None:
        if self.name not in NETWORKS:
            raise ArchitectureError(f"unknown network {self.name!r}: use one of {', '.join(NETWORKS)}")
        if self.form not in ("post", "pre"):
            raise ArchitectureError(f"unknown block form {self.form!r}: use post or pre")
        if not isinstance(self.classes, int) or not 1 < self.classes <= 100_000:
            raise ArchitectureError(f"a network needs 2 to 100,000 classes, not {self.classes!r}")
        if self.gate != "none":
            GateSpec.parse(self.gate)

    @property
    def plain_twin(self) -> Architecture:
        """The same network without gates."""
        return replace(self, gate="none")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Architecture:
        """Read what :meth:`to_json` wrote.

        Raises:
            ArchitectureError: anything else.

        """
        wanted = {field.name for field in fields(cls)}
        if not isinstance(value, dict) or set(value) != wanted:
            raise ArchitectureError(f"an architecture has exactly the fields {', '.join(sorted(wanted))}")
        if not all(isinstance(value[name], str) for name in ("name", "form", "gate")):
            raise ArchitectureError("an architecture's name, form and gate are texts")
        return cls(**value)


def build(architecture: Architecture) -> ResNet:
    """Build the network with fresh weights (He-normal convolutions, unit normalisation)."""
    gate = None if architecture.gate == "none" else GateSpec.parse(architecture.gate)
    return NETWORKS[architecture.name](form=cast(Form, architecture.form), gate=gate, classes=architecture.classes)
