"""From an image to the network's input: one definition, used by training and by serving."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lccl.decoding.pixels import rgb_over_white
from lccl.errors import InputError
from lccl.json_values import read_fields

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Scale the shorter side to ``resize`` pixels (bicubic, antialiased), keep the central ``size`` × ``size`` square.

    The square is cut before it is scaled, so that a very long image costs no more than its square.
    ``mean`` and ``std`` are per channel, for values in 0..1; engines apply them, so that images
    travel as uint8.
    """

    size: int
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resize <= 4096:
            raise InputError(f"preprocessing needs 1 ≤ size ≤ resize ≤ 4096, not {self.size} and {self.resize}")
        values = np.array([self.mean, self.std], dtype=np.float64)
        if values.shape != (2, 3) or not np.isfinite(values).all() or (values[1] <= 0).any():
            raise InputError("preprocessing needs three finite means and three positive deviations")

    @property
    def statistics(self) -> Statistics:
        """Mean and deviation."""
        return self.mean, self.std

    def apply(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the image as uint8 [size, size, 3] in RGB. An image of that size passes unchanged."""
        image = to_rgb(image)
        return np.asarray(image) if self._fits(*image.size) else self._scale(image)

    def apply_to_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The same for pixels that are upright RGB already, uint8 [H, W, 3]."""
        height, width, _ = pixels.shape
        return pixels if self._fits(width, height) else self._scale(Image.fromarray(pixels))

    def _fits(self, width: int, height: int) -> bool:
        return width == height == self.size == self.resize

    def _scale(self, image: Image.Image) -> NDArray[np.uint8]:
        width, height = image.size
        side = min(width, height) * self.size / self.resize
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
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


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn any image into 8-bit RGB: upright by its EXIF tag, transparency over white, 16 bits scaled to 8."""
    image = ImageOps.exif_transpose(image)
    plain = image.mode == "RGB" and "transparency" not in image.info
    return image if plain else Image.fromarray(rgb_over_white(image))
