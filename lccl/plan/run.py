"""What goes into a run beside the images, and what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEVER = 1.0


@dataclass(frozen=True, slots=True)
class Setting:
    """How much of a network one image runs: the one value that calibration finds, clients choose and engines obey.

    Attributes:
        thresholds: one per SkipConv; 0 is exact, −∞ skips nothing, +∞ everything.
        exit_confidence: one per early exit, 0..1: an image leaves where its confidence is above it, so never at 1
            (``NEVER``). Empty: it takes no exit of any network.

    """

    thresholds: tuple[float, ...]
    exit_confidence: tuple[float, ...] = ()

    @classmethod
    def exact(cls, layers: int, exits: int = 0) -> Setting:
        """Only what is zero anyway is skipped, and no image leaves early."""
        return cls((0.0,) * layers, (NEVER,) * exits)

    def mixed(self, other: Setting, weight: float) -> Setting:
        """A share of the way to another setting of the same network: itself at 0, the other at 1."""

        def mix(old: float, new: float) -> float:
            return old + weight * (new - old)

        return Setting(
            tuple(map(mix, self.thresholds, other.thresholds)),
            tuple(map(mix, self.exit_confidence, other.exit_confidence)),
        )


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Everything that may differ from image to image in one batch of N images.

    Attributes:
        thresholds: float32 [N, L], a column per SkipConv; see :class:`Setting`.
        exit_confidence: float32 [N, E], a column per early exit. [N, 0] takes no exit of any network.
        want_masks: whether the output carries the masks.
        forced_masks: per layer uint8 [N, G, H, W], used instead of the threshold test; for tests only.

    """

    thresholds: NDArray[np.float32]
    exit_confidence: NDArray[np.float32]
    want_masks: bool = False
    forced_masks: tuple[NDArray[np.uint8], ...] | None = None

    @classmethod
    def of(cls, settings: Sequence[Setting], *, want_masks: bool = False) -> RunOptions:
        """Options for a batch, one setting per image; the settings are of one network."""
        return cls(
            thresholds=np.array([setting.thresholds for setting in settings], dtype=np.float32),
            exit_confidence=np.array([setting.exit_confidence for setting in settings], dtype=np.float32),
            want_masks=want_masks,
        )

    def __len__(self) -> int:
        return len(self.thresholds)


@dataclass(frozen=True, slots=True)
class RunOutput:
    """What a run of N images returns.

    Attributes:
        logits: float32 [N, classes] (float64 from a float64 engine).
        kept: int64 [N, L], cells with gate > threshold.
        executed_macs: int64 [N], what the kernels really ran.
        exit_index: int64 [N], the exit that answered; the number of exits where the network ran to its end.
        masks: per layer uint8 [N, G, H, W], 1 where kept; None unless asked for.

    """

    logits: NDArray[np.floating]
    kept: NDArray[np.int64]
    executed_macs: NDArray[np.int64]
    exit_index: NDArray[np.int64]
    masks: tuple[NDArray[np.uint8], ...] | None = None
