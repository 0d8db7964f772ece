"""What a training run is made of, and its learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lccl.errors import LcclError


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of one run; the defaults are the ones that the shipped model was trained with.

    Attributes:
        warm_up: share of the run in which the learning rate rises from ``first_lr`` to ``lr``; gates
            that meet a high rate at once die or open for good.
        skip_from: share of the run after which images train under thresholds; the range of skip
            ratios they are drawn from grows to ``skip_top`` over ``skip_ramp`` of the run.
        exact_share: share of the images of a batch that always run exactly.

    """

    epochs: int = 20
    batch: int = 128
    lr: float = 0.1
    first_lr: float = 0.005
    warm_up: float = 0.25
    momentum: float = 0.9
    weight_decay: float = 5e-4
    skip_from: float = 0.3
    skip_ramp: float = 0.2
    skip_top: float = 0.75
    exact_share: float = 0.3
    seed: int = 0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2:
            raise LcclError("training needs at least one epoch and batches of at least two images")
        if not (self.lr > 0 and self.first_lr > 0 and 0 <= self.skip_top < 1 and 0 <= self.exact_share <= 1):
            raise LcclError("training needs positive learning rates, skip_top below 1 and exact_share in 0..1")
        if self.precision not in ("fp32", "bf16"):
            raise LcclError(f"unknown training precision {self.precision!r}: use fp32 or bf16")

    def lr_at(self, progress: float) -> float:
        """Learning rate at ``progress`` (0..1) of the run: linear rise, then half a cosine down to 0."""
        if progress < self.warm_up:
            return self.first_lr + (self.lr - self.first_lr) * progress / self.warm_up
        return self.lr * 0.5 * (1 + math.cos(math.pi * (progress - self.warm_up) / (1 - self.warm_up)))

    def skip_top_at(self, progress: float) -> float:
        """Largest skip ratio that an image may be asked for at ``progress`` (0..1) of the run."""
        ramp = (progress - self.skip_from) / self.skip_ramp if self.skip_ramp else float(progress >= self.skip_from)
        return self.skip_top * min(1.0, max(0.0, ramp))
