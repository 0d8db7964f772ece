"""Decoded images on disk, one after the other in one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lccl.decoding.pixels import Pixels

FILE, PLACES = "sources.bin", "places.npy"
LARGEST = 4


@dataclass(frozen=True, eq=False)
class Sources:
    """What a cache folder holds.

    Attributes:
        file: the pixels.
        places: where each image begins, its height and width, int64 [N, 3]; height 0 where it is not there.

    """

    file: Path
    places: NDArray[np.int64]

    def read(self, number: int) -> Pixels | None:
        """One image, uint8 [H, W, 3], or None where it has to be decoded.

        It is read, not mapped: mapped pages would count as this process's memory.
        """
        start, height, width = (int(value) for value in self.places[number])
        if not height:
            return None
        return np.fromfile(self.file, np.uint8, 3 * height * width, offset=start).reshape(height, width, 3)


class SourcesWriter:
    """Writes :class:`Sources` image by image.

    Args:
        most: pixels of the largest image that is written; larger ones would fill the disk, and are decoded each time.

    """

    def __init__(self, folder: Path, count: int, most: int) -> None:
        self._folder, self._most, self._at = folder, most, 0
        self._places = np.zeros((count, 3), dtype=np.int64)
        self._file = (folder / FILE).open("wb")

    def add(self, number: int, pixels: Pixels) -> None:
        height, width, _ = pixels.shape
        if height * width <= self._most:
            self._places[number] = self._at, height, width
            self._at += self._file.write(np.ascontiguousarray(pixels).data)

    def close(self) -> None:
        self._file.close()
        np.save(self._folder / PLACES, self._places)


def open_sources(folder: Path) -> Sources:
    return Sources(folder / FILE, np.load(folder / PLACES))


def most_pixels(cover: int) -> int:
    """An image reduced to ``cover`` has at most twice that on its shorter side; twice as wide as high is usual."""
    return LARGEST * 2 * max(cover, 1) ** 2
