"""What goes into a run beside the images, and what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Controls:
    """Everything that may differ from image to image in one batch of N images.

    Attributes:
        thresholds: float32 [N, L], a column per SkipConv; 0 is exact, −∞ skips nothing, +∞ everything.
        norm_set: int64 [N], the normalisation set each image is run with.
        exit_confidence: float32 [N, E], a column per early exit, which an image leaves by where its confidence is
            above it: never at 1, always at 0. [N, 0] takes no exit of any network.
        want_masks: whether the output carries the masks.
        forced_masks: per layer uint8 [N, G, H, W], used instead of the threshold test; for tests only.

    """

    thresholds: NDArray[np.float32]
    norm_set: NDArray[np.int64]
    exit_confidence: NDArray[np.float32]
    want_masks: bool = False
    forced_masks: tuple[NDArray[np.uint8], ...] | None = None

    @classmethod
    def uniform(
        cls,
        images: int,
        thresholds: Sequence[float] | NDArray[np.float32],
        norm_set: int = 0,
        want_masks: bool = False,
        exit_confidence: Sequence[float] = (),
    ) -> Controls:
        """The same thresholds (one per layer), normalisation set and exit confidences for every image."""
        row = np.asarray(thresholds, dtype=np.float32)
        return cls(
            thresholds=np.tile(row, (images, 1)),
            norm_set=np.full(images, norm_set, dtype=np.int64),
            exit_confidence=np.tile(np.asarray(exit_confidence, dtype=np.float32), (images, 1)),
            want_masks=want_masks,
        )

    def __len__(self) -> int:
        return len(self.thresholds)


@dataclass(frozen=True, slots=True)
class Output:
    """What a run of N images returns.

    Attributes:
        logits: float32 [N, classes] (float64 from a float64 engine).
        kept: int64 [N, L], cells with gate > threshold.
        executed_macs: int64 [N], what the kernels really ran.
        exit: int64 [N], the exit that answered; the number of exits where the network ran to its end.
        masks: per layer uint8 [N, G, H, W], 1 where kept; None unless asked for.

    """

    logits: NDArray[np.floating]
    kept: NDArray[np.int64]
    executed_macs: NDArray[np.int64]
    exit: NDArray[np.int64]
    masks: tuple[NDArray[np.uint8], ...] | None = None
