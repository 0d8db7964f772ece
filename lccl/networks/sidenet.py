"""SideNets: small classifiers beside a network, which let images with a confident answer leave early.

Source: Morisot, "Add a SideNet to your MainNet", arXiv 2007.13512. What the paper leaves open is this project's choice:
means over a few parts of the map, one hidden layer, and a temperature for every answer, the network's own included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lccl.errors import ArchitectureError, require
from lccl.json_values import read_fields

MOST_EXITS = 64
MOST_GRID = 16
MOST_HIDDEN = 4096
MOST_WEIGHTS = 1 << 26


@dataclass(frozen=True, slots=True)
class SideNetSpec:
    """Where a SideNet stands and how wide it is.

    Attributes:
        after: number of the residual block whose activated output it reads, from 0.
        grid: the output is cut into ``grid`` × ``grid`` parts, whose means it reads.
        hidden: units of its hidden layer.

    """

    after: int
    grid: int
    hidden: int

    @classmethod
    def from_json(cls, value: object) -> SideNetSpec:
        """Read ``{"after": 5, "grid": 2, "hidden": 64}``.

        Raises:
            ArchitectureError: anything else.

        """
        try:
            return read_fields(cls, value)
        except TypeError as error:
            raise ArchitectureError(f"a SideNet is not readable: {error}") from error


class SideNet(nn.Module):
    """A block's output [N, C, H, W] → logits [N, classes], divided by ``temperature``."""

    temperature: Tensor

    def __init__(self, spec: SideNetSpec, channels: int, classes: int) -> None:
        super().__init__()
        self.spec = spec
        self.hidden = nn.Linear(channels * spec.grid**2, spec.hidden)
        self.classifier = nn.Linear(spec.hidden, classes)
        self.register_buffer("temperature", torch.ones(()))

    def pool(self, x: Tensor) -> Tensor:
        """The means that are read: [N, C, H, W] → [N, C · grid²]."""
        return F.adaptive_avg_pool2d(x, self.spec.grid).flatten(1)

    def classify(self, features: Tensor) -> Tensor:
        """What :meth:`pool` gave → logits."""
        logits: Tensor = self.classifier(F.relu(self.hidden(features)))
        return logits / self.temperature

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.pool(x))


class SideNets(nn.ModuleList):
    """A network's SideNets, in the order of its blocks, and the temperature of its own answer (None without any)."""

    temperature: Tensor | None

    def __init__(self, sidenets: Sequence[SideNet] = ()) -> None:
        super().__init__(sidenets)
        self.register_buffer("temperature", torch.ones(()) if sidenets else None)

    def __iter__(self) -> Iterator[SideNet]:
        for module in super().__iter__():
            assert isinstance(module, SideNet)
            yield module

    @property
    def specs(self) -> tuple[SideNetSpec, ...]:
        return tuple(side.spec for side in self)


def sidenets_for(specs: Sequence[SideNetSpec], channels: Sequence[int], classes: int) -> SideNets:
    """Fresh SideNets for a network whose blocks give out ``channels``.

    Raises:
        ArchitectureError: no such block, two SideNets after one, not in the blocks' order, or an unlikely size.

    """
    blocks = [spec.after for spec in specs]
    require(
        ArchitectureError,
        (blocks == sorted(set(blocks)), "SideNets stand after different blocks, in the blocks' order"),
        (len(blocks) <= MOST_EXITS, f"a network has at most {MOST_EXITS} SideNets, not {len(blocks)}"),
    )
    for spec in specs:
        require(
            ArchitectureError,
            (
                0 <= spec.after < len(channels),
                f"no block {spec.after}: this network's are 0 to {len(channels) - 1}",
            ),
            (1 <= spec.grid <= MOST_GRID, f"a SideNet's grid has 1 to {MOST_GRID} parts a side, not {spec.grid}"),
            (
                1 <= spec.hidden <= MOST_HIDDEN,
                f"a SideNet's hidden layer has 1 to {MOST_HIDDEN} units, not {spec.hidden}",
            ),
        )
    weights = sum(spec.hidden * (channels[spec.after] * spec.grid**2 + classes) for spec in specs)
    if weights > MOST_WEIGHTS:
        raise ArchitectureError(f"SideNets of {weights:,} weights are too large: at most {MOST_WEIGHTS:,} in all")
    return SideNets([SideNet(spec, channels[spec.after], classes) for spec in specs])
