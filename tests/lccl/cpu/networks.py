"""The networks that whole runs are tried on, their pictures' sizes, and thresholds of all kinds."""

from __future__ import annotations

import numpy as np

from lccl.networks import Architecture

GATES = ("shared", "pointwise", "grouped:4", "grouped:4:1x1")
GATED = [Architecture("resnet20", form, gate) for form in ("post", "pre") for gate in GATES] + [
    Architecture("resnet18")
]
NETWORKS = [*GATED, *(Architecture("resnet20", form, "none") for form in ("post", "pre"))]
LAYERS = {"resnet20": 18, "resnet18": 16}
SIZES = {"resnet20": 20, "resnet18": 64}  # 20, 10 and 5: maps whose positions fill no whole number of vectors
POST, PRE = Architecture("resnet20"), Architecture("resnet20", "pre", "grouped:4:1x1")
HUGE = 1 << 40


def called(architecture):
    return "-".join((architecture.name, architecture.form, architecture.gate))


def mixed(images, layers, seed=0):
    """Rows −∞, 0 and +∞, then rows whose layers have thresholds of their own."""
    levels = np.array([-np.inf, 0, 0.1, 0.2, 0.3, 0.4, np.inf])
    chosen = np.random.default_rng(seed).choice(levels, (images, layers), p=[0.05, 0.15, 0.2, 0.2, 0.2, 0.15, 0.05])
    chosen[:3] = np.array([-np.inf, 0, np.inf])[: min(3, images), None]
    return chosen.astype(np.float32)


def layers_of(architecture):
    return 0 if architecture.gate == "none" else LAYERS[architecture.name]
