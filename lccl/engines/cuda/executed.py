"""What tiles come to: rows of them that a batch's images fill, shared out among these."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def tiles_of(active: NDArray[np.bool_], positions: int, rows: int) -> NDArray[np.int64]:
    """Numbers of the tiles that hold active images' positions."""
    numbers = np.flatnonzero(active)
    first, last = numbers * positions // rows, ((numbers + 1) * positions - 1) // rows
    spans = [np.arange(*ends) for ends in zip(first, last + 1, strict=True)]
    return np.unique(np.concatenate(spans)) if spans else np.zeros(0, np.int64)


def rows_of_tiles(active: NDArray[np.bool_], positions: int, rows: int) -> NDArray[np.int64]:
    """Rows of the tiles that hold active images' positions, shared out among these, int64 [N]."""
    return shared_out(len(tiles_of(active, positions, rows)) * rows, active.astype(np.int64))


def shared_out(rows: int, kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of tiles, given to images by what they keep; the parts sum to ``rows``."""
    total = int(kept.sum())
    if not total:
        return np.zeros(len(kept), np.int64)
    edges = np.concatenate([[0], np.cumsum(kept)]) * rows // total
    return np.diff(edges)
