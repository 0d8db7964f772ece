"""Images that are decoded when they are asked for, with the part of NumPy's indexing that data sets use."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lccl.data.files import Files
from lccl.data.sources import Sources
from lccl.decoding.pixels import Pixels, decode_rgb, image_to_rgb
from lccl.errors import DataError, ImageError, NotAnImageError, UnsupportedImageError
from lccl.preprocessing import Preprocessing

MAX_PIXELS = 1 << 28
UNREADABLE = (ImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError)


class FileImages:
    """Like an array uint8 [N, size, size, 3] of images as serving sees them; nothing is kept in memory.

    Args:
        files: the encoded images.
        numbers: which of them these are.
        sources: decoded images on disk.

    """

    def __init__(
        self, files: Files, numbers: NDArray[np.int64], preprocessing: Preprocessing, sources: Sources | None = None
    ) -> None:
        self.files, self.numbers, self.preprocessing, self.sources = files, numbers, preprocessing, sources

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        size = self.preprocessing.size
        return len(self), size, size, 3

    def select(self, index: slice | NDArray[Any]) -> FileImages:
        """Some of them, still not decoded."""
        return FileImages(self.files, self.numbers[index], self.preprocessing, self.sources)

    def source(self, index: int) -> Pixels:
        """One image upright in RGB, uint8 [H, W, 3], before it is cut and scaled; a JPEG is reduced already.

        Raises:
            DataError: the file could be read once, and no longer can.

        """
        number = int(self.numbers[index])
        try:
            stored = None if self.sources is None else self.sources.read(number)
            if stored is not None:
                return stored
            return read_source(self.files.read(number), self.preprocessing.cover)
        except UNREADABLE as error:
            raise DataError(f"{self.files.names[number]} can no longer be read: {error}") from error

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Pixels: ...
    @overload
    def __getitem__(self, index: slice | NDArray[Any]) -> Pixels: ...
    def __getitem__(self, index: Any) -> Pixels:
        if isinstance(index, int | np.integer):
            return self._prepared(int(index))
        chosen = np.arange(len(self))[index]
        out = np.empty((len(chosen), *self.shape[1:]), dtype=np.uint8)
        for place, pixels in enumerate(_threads(os.getpid()).map(self._prepared, chosen.tolist())):
            out[place] = pixels
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def _prepared(self, index: int) -> Pixels:
        return self.preprocessing.apply_to_pixels(self.source(index))


def read_source(content: bytes, cover: int) -> Pixels:
    """As serving decodes it; formats that are not served are left to Pillow.

    Raises:
        ImageError, OSError, ValueError, SyntaxError: it is damaged or foreign.

    """
    try:
        return decode_rgb(content, MAX_PIXELS, cover)
    except UnsupportedImageError:
        raise
    except NotAnImageError as unknown:
        try:
            with Image.open(io.BytesIO(content)) as image:
                return image_to_rgb(image)
        except UnidentifiedImageError:
            raise unknown from None


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Decoders and scalers leave Python's lock while they work. Each process has its own: threads are not forked."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix=f"decode-{process}")
