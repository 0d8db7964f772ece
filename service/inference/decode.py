"""Bytes → the network's input; which small images are decoded at once."""

import numpy as np
from numpy.typing import NDArray

from lccl.errors import ImageTooLargeError
from lccl.preprocessing import Preprocessing

SMALL_BYTES, SMALL_PIXELS = 1 << 14, 1 << 14  # decoded in some 0.1 ms


def decode(content: bytes, preprocessing: Preprocessing, max_pixels: int) -> NDArray[np.uint8]:
    """Decode one image (of an animation the first frame) to the network's input, uint8 [size, size, 3].

    Raises:
        ImageError: see :func:`lccl.decoding.pixels.decode_rgb`.

    """
    return preprocessing.decode(content, max_pixels)


def decode_if_small(content: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8] | None:
    """Decode a JPEG of at most 16,384 bytes and pixels for a network as small; None for all that may take longer.

    Raises:
        ImageError: as :func:`decode`.

    """
    if len(content) > SMALL_BYTES or preprocessing.resize**2 > SMALL_PIXELS or not content.startswith(b"\xff\xd8"):
        return None
    try:
        return decode(content, preprocessing, SMALL_PIXELS)
    except ImageTooLargeError:
        return None
