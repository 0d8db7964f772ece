"""Executed MACs: the tiles of all matrix products that a batch ran, shared out among its images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product that a kernel forms in whole tiles.

    Attributes:
        rows: of one image.
        tile: rows of a tile, which runs if one of them is an active image's.
        macs: of a row, with what only fills up blocks.
        layer: of the gate whose lists its rows are from, instead of all ``rows``.

    """

    rows: int
    tile: int
    macs: int
    layer: int | None = None


class Counting:
    """Counts what a plan's products come to."""

    def __init__(self, stages: Sequence[Sequence[Product]]) -> None:
        """Take the products before the first exit, between it and the second, and so on."""
        self._whole = [
            _columns((each.rows, each.tile, each.macs) for each in stage if each.layer is None) for stage in stages
        ]
        listed = [each for stage in stages for each in stage if each.layer is not None]
        self._listed = _columns((each.layer, each.tile, each.macs) for each in listed)

    def executed_macs(
        self, kept: NDArray[np.int64], exit_index: NDArray[np.int64], listed: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """MACs of each valid image, int64 [N], rounded up.

        A tile of listed rows is shared out by what images keep, another evenly among those that come there.

        Args:
            kept: int64 [N, L], kept cells.
            exit_index: int64 [N].
            listed: int64 [L, G], rows in the lists.

        """
        layers, tile, macs = self._listed
        rows = (-(-listed[layers].T // tile)).sum(axis=0) * tile
        share = kept[:, layers]
        executed: NDArray[np.int64] = -(-share * rows // np.maximum(share.sum(axis=0), 1)) @ macs
        for exits, products in enumerate(self._whole):
            images = np.flatnonzero(exit_index >= exits)
            executed[images] += -(-macs_of_tiles(products, images) // max(len(images), 1))
        return executed


def macs_of_tiles(products: NDArray[np.int64], images: NDArray[np.int64]) -> int:
    """MACs of the tiles that hold a row of some of a batch's images; ``products`` are rows, tile and macs, [3, P]."""
    rows, tile, macs = products
    first, last = np.outer(images, rows) // tile, (np.outer(images + 1, rows) - 1) // tile
    tiles = (last - first + 1).sum(axis=0) - (first[1:] == last[:-1]).sum(axis=0)  # one that two share counts once
    return int(tiles @ (tile * macs))


def _columns(rows: Iterable[tuple[int | None, int, int]]) -> NDArray[np.int64]:
    return np.array([*rows], np.int64).reshape(-1, 3).T
