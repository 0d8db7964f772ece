"""Inputs and settings that tests of the reference engine share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from tests.lccl.settings import uniform


def size_for(architecture):
    if architecture.name in ("resnet18", "resnet34", "resnet50"):
        return 64
    return 16 if architecture.name.startswith("wrn-") else 32


def mixed_thresholds(images, layers, seed=0):
    """Rows −∞, 0 and +∞, then rows whose layers have thresholds of their own, some of them −∞ or +∞."""
    random = np.random.default_rng(seed)
    rows = random.choice(
        [-np.inf, 0.0, 0.1, 0.2, 0.3, 0.4, np.inf], (images, layers), p=[0.05, 0.15, 0.2, 0.2, 0.2, 0.15, 0.05]
    )
    rows[0], rows[1], rows[2] = -np.inf, 0.0, np.inf
    return rows.astype(np.float32)


def normalised(engine, pixels):
    """[N, 3, H, W] as the modules want them, by numpy."""
    step = engine.plan.steps[0]
    return torch.from_numpy(((pixels / 255.0 - step.mean) / step.std).transpose(0, 3, 1, 2))


def exact(images, layers, **changes):
    return replace(uniform(images, [0.0] * layers), **changes)
