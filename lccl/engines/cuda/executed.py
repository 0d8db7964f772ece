"""What tiles come to: those that a batch's images fill, shared out among these."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def tiles_of(active: NDArray[np.bool_], positions: int, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last tile of each active image's positions; a tile that two share is the first one's alone.

    So no tile is counted twice; an image that has none to itself gets a first one behind its last.
    """
    numbers = np.flatnonzero(active)
    first, last = numbers * positions // rows, ((numbers + 1) * positions - 1) // rows
    before = np.concatenate([[-1], last])[: len(last)]
    return np.maximum(first, before + 1), last


def rows_of_tiles(active: NDArray[np.bool_], positions: int, rows: int) -> NDArray[np.int64]:
    """Rows of the tiles that hold active images' positions, shared out among these, int64 [N]."""
    first, last = tiles_of(active, positions, rows)
    return shared_out((last - first + 1).sum() * rows, active.astype(np.int64))


def shared_out(rows: np.int64 | NDArray[np.int64], kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of tiles, given to images by what they keep, ``kept`` [N] or [N, L]; the parts sum to ``rows`` ([L])."""
    edges = np.concatenate([np.zeros_like(kept[:1]), np.cumsum(kept, axis=0)]) * rows
    parts: NDArray[np.int64] = np.diff(edges // np.maximum(kept.sum(axis=0), 1), axis=0)
    return parts
