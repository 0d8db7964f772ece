"""From an image to the network's input: one definition, used by training and by serving."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lccl.decoding.pixels import NO_MEMORY, decode_rgb, image_to_rgb
from lccl.errors import ImageTooLargeError, InputError
from lccl.json_values import read_fields

FITS = ("crop", "stretch")
Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Scale the shorter side to ``resize`` pixels (bicubic, antialiased), keep the central ``size`` × ``size`` square.

    What is kept is cut before it is scaled, so that a very long image costs no more than its square.
    ``mean`` and ``std`` are per channel, for values in 0..1; engines apply them, so that images
    travel as uint8.

    Attributes:
        fit: ``crop`` as above, or ``stretch``: both sides are scaled to ``resize``, so that the whole image is kept
            where ``size`` is the same, and its aspect ratio is not.
        scaled: whether a JPEG is decoded reduced, as far as its shorter side still has ``resize`` pixels
            (:func:`lccl.decoding.pixels.reduction`). Models from before there was a choice decode it whole.

    """

    size: int
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: str = "crop"
    scaled: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resize <= 4096:
            raise InputError(f"preprocessing needs 1 ≤ size ≤ resize ≤ 4096, not {self.size} and {self.resize}")
        values = np.array([self.mean, self.std], dtype=np.float64)
        if values.shape != (2, 3) or not np.isfinite(values).all() or (values[1] <= 0).any():
            raise InputError("preprocessing needs three finite means and three positive deviations")
        if self.fit not in FITS:
            raise InputError(f"unknown fit {self.fit!r}: use {' or '.join(FITS)}")

    @property
    def cover(self) -> int:
        """Pixels that a JPEG's shorter side has at least when it is decoded; 0 where it is decoded whole."""
        return self.resize if self.scaled else 0

    @property
    def statistics(self) -> Statistics:
        """Mean and deviation."""
        return self.mean, self.std

    def at(self, size: int) -> Preprocessing:
        """The same for a network's input of another size, with the same share of a margin."""
        return replace(self, size=size, resize=size * self.resize // self.size)

    def apply(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the image as uint8 [size, size, 3] in RGB. An image of that size passes unchanged.

        A JPEG that was opened and not loaded yet is reduced as :meth:`decode` does.
        """
        return self.apply_to_pixels(image_to_rgb(image, self.cover))

    def decode(self, content: bytes, max_pixels: int) -> NDArray[np.uint8]:
        """The same for an encoded image.

        Raises:
            ImageError: see :func:`lccl.decoding.pixels.decode_rgb`.

        """
        pixels = decode_rgb(content, max_pixels, self.cover)
        try:
            return self.apply_to_pixels(pixels)
        except MemoryError as error:
            raise ImageTooLargeError(NO_MEMORY) from error

    def apply_to_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The same for pixels that are upright RGB already, uint8 [H, W, 3]."""
        height, width, _ = pixels.shape
        if width == height == self.size == self.resize:
            return pixels
        image = Image.fromarray(pixels)
        shorter = min(width, height)
        sides = (width, height) if self.fit == "stretch" else (shorter, shorter)
        wide, high = (side * self.size / self.resize for side in sides)
        left, top = (width - wide) / 2, (height - high) / 2
        box = (left, top, left + wide, top + high)
        return np.asarray(image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Preprocessing:
        """Read what :meth:`to_json` wrote.

        Raises:
            InputError: anything else.

        """
        try:
            return read_fields(cls, value)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"preprocessing is not readable: {error}") from error
