"""Random shifts and flips of a batch of images."""

import numpy as np
from numpy.typing import NDArray


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
