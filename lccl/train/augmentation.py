"""Random views of training images: small shifts, or parts of photographs; half of them flipped."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TRIES = 10
Box = tuple[float, float, float, float]


def augment(images: NDArray[np.uint8], fill: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Shift each image [N, H, W, 3] by up to an eighth of its size, flip every other one.

    What a shift uncovers shows ``fill``, the data's mean colour, which is 0 after normalisation.
    """
    count, size = len(images), images.shape[1]
    margin = size // 8
    padded = np.empty((count, size + 2 * margin, size + 2 * margin, 3), dtype=np.uint8)
    padded[:] = fill
    padded[:, margin : margin + size, margin : margin + size] = images
    tops, lefts = random.integers(0, 2 * margin + 1, (2, count))
    flips = random.random(count) < 0.5
    out = np.empty_like(images)
    for index in range(count):
        cut = padded[index, tops[index] : tops[index] + size, lefts[index] : lefts[index] + size]
        out[index] = cut[:, ::-1] if flips[index] else cut
    return out


def random_crop(
    pixels: NDArray[np.uint8], size: int, least: float, ratio: float, stretch: bool, random: np.random.Generator
) -> NDArray[np.uint8]:
    """A random part of an image [H, W, 3], scaled (bicubic, antialiased) to [size, size, 3]; every other one flipped.

    Args:
        least: share of the image's area that the part has at least.
        ratio: how much wider than high the part may be, or higher than wide.
        stretch: the image counts as a square, as where serving stretches it.

    """
    height, width, _ = pixels.shape
    if stretch:
        box = crop_box(1.0, 1.0, least, ratio, random)
        box = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    else:
        box = crop_box(width, height, least, ratio, random)
    scaled = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC, box=box))
    return scaled[:, ::-1] if random.random() < 0.5 else scaled


def crop_box(width: float, height: float, least: float, ratio: float, random: np.random.Generator) -> Box:
    """Left, top, right and bottom of a random part; where none fits, of the largest one in the middle.

    Source: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, as torchvision's RandomResizedCrop draws it.
    """
    for _ in range(TRIES):
        area = random.uniform(least, 1) * width * height
        shape = math.exp(random.uniform(-math.log(ratio), math.log(ratio)))
        wide, high = math.sqrt(area * shape), math.sqrt(area / shape)
        if wide <= width and high <= height:
            left, top = random.uniform(0, width - wide), random.uniform(0, height - high)
            return left, top, left + wide, top + high
    wide, high = min(width, height * ratio), min(height, width * ratio)
    left, top = (width - wide) / 2, (height - high) / 2
    return left, top, left + wide, top + high
