"""The networks that whole runs are tried on, their images' sizes, and thresholds of all kinds."""

from __future__ import annotations

import numpy as np

from lccl.engines.cpu.engine import instruction_sets
from lccl.networks import Architecture
from tests.lccl.networks import called

GATES = ("shared", "pointwise", "grouped:4", "grouped:4:1x1")
GATED = [
    *(Architecture("resnet20", form, gate) for form in ("post", "pre") for gate in GATES),
    *(Architecture("resnet20", "pre", placement=placement) for placement in ("aft-bef", "bef-bef", "bef-aft")),
    *(Architecture("resnet20", form, gate_norm=False) for form in ("post", "pre")),
    *(Architecture(name) for name in ("resnet18", "resnet18-w48", "resnet50", "resnet164", "wrn-16-4")),
    *(Architecture("resnet164", gate=gate, placement="bef-aft") for gate in ("pointwise", "grouped:4")),
    Architecture("wrn-16-4", placement="bef-bef", gate_norm=False),
]
TWINS = (Architecture("resnet20"), Architecture("resnet20", "pre"), Architecture("resnet50"), Architecture("wrn-16-4"))
NETWORKS = [*GATED, *(one.plain_twin for one in TWINS)]
# Between them these have every kind of block, gate and placement.
VARIED = [
    Architecture("resnet20"), Architecture("resnet20", "pre", "grouped:4:1x1"), Architecture("resnet50"),
    Architecture("resnet164", gate="pointwise", placement="bef-aft"),
    Architecture("wrn-16-4", placement="bef-bef", gate_norm=False),
]  # fmt: skip
FLOATING = [one for one in instruction_sets() if one[1] != "int8"]
INT8 = [one for one in instruction_sets() if one[1] == "int8"]


def crossed(
    networks: list[Architecture], arithmetics: list[tuple[str, str]]
) -> list[tuple[Architecture, tuple[str, str]]]:
    """Every network in one arithmetic, and the varied ones in all: arithmetics differ in kernels, not in whole runs."""
    pairs = [(network, arithmetics[0]) for network in networks]
    return pairs + [
        (network, arithmetic) for arithmetic in arithmetics[1:] for network in VARIED if network in networks
    ]


def named(part: Architecture | tuple[str, str]) -> str:
    """A part of such a pair in a test's name."""
    return "-".join(part) if isinstance(part, tuple) else called(part)


SIZES = {"resnet18": 64, "resnet18-w48": 64, "resnet50": 64}
SMALL = 20  # then 10 and 5: maps whose positions fill no whole number of vectors
POST, PRE = Architecture("resnet20"), Architecture("resnet20", "pre", "grouped:4:1x1")
HUGE = 1 << 40


def mixed(images, layers, seed=0):
    """Rows −∞, 0 and +∞, then rows whose layers have thresholds of their own."""
    levels = np.array([-np.inf, 0, 0.1, 0.2, 0.3, 0.4, np.inf])
    chosen = np.random.default_rng(seed).choice(levels, (images, layers), p=[0.05, 0.15, 0.2, 0.2, 0.2, 0.15, 0.05])
    chosen[:3] = np.array([-np.inf, 0, np.inf])[: min(3, images), None]
    return chosen.astype(np.float32)
