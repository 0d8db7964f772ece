"""Bytes → uint8 array: the only place that opens an image, with every limit on its size."""

import io
import warnings

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lccl.preprocessing import Preprocessing

from ..errors import ServiceError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
EXIF = b"Exif\0\0"
SMALL_BYTES, SMALL_PIXELS = 1 << 14, 1 << 14  # decoded in some 0.1 ms


def decode(content: bytes, preprocessing: Preprocessing, max_pixels: int) -> NDArray[np.uint8]:
    """Decode one image (of an animation the first frame) to the network's input, uint8 [size, size, 3].

    The size is read from the header and checked before any pixel is decoded, so that a small file
    that claims to be huge costs nothing.

    Raises:
        ServiceError, not_an_image: no JPEG, PNG, WebP, GIF or BMP.
        ServiceError, too_large: more than ``max_pixels`` pixels.
        ServiceError, damaged_image: truncated, corrupt or lying about itself.

    """
    if not content:
        raise ServiceError("damaged_image", "the image is empty: send its bytes")
    try:
        pixels = _plain_jpeg(content, max_pixels)
        if pixels is not None:
            return preprocessing.apply_to_pixels(pixels)
        return _with_pillow(content, preprocessing, max_pixels)
    except MemoryError as error:
        raise ServiceError("too_large", "the image needs more memory than there is") from error


def _with_pillow(content: bytes, preprocessing: Preprocessing, max_pixels: int) -> NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise ServiceError(
                        "too_large", f"the image has {width} × {height} pixels; at most {max_pixels:,} are taken"
                    )
                if not width or not height:
                    raise ServiceError("damaged_image", "the image has no pixels")
                return preprocessing.apply(image)
        except UnidentifiedImageError as error:
            raise ServiceError("not_an_image", f"not an image this service reads ({', '.join(FORMATS)})") from error
        except Image.DecompressionBombError as error:
            raise ServiceError(
                "too_large", f"the image has too many pixels; at most {max_pixels:,} are taken"
            ) from error
        except (ServiceError, MemoryError):
            raise
        except Exception as error:  # Pillow's decoders raise whatever their format runs into
            brief = str(error).partition("\n")[0][:120] or type(error).__name__
            raise ServiceError("damaged_image", f"the image cannot be decoded: {brief}") from error


def decode_if_small(content: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8] | None:
    """Decode a JPEG of at most 16,384 bytes and pixels for a network as small; None for all that may take longer.

    Raises:
        as :func:`decode`.

    """
    if len(content) > SMALL_BYTES or preprocessing.resize**2 > SMALL_PIXELS or not content.startswith(b"\xff\xd8"):
        return None
    try:
        return decode(content, preprocessing, SMALL_PIXELS)
    except ServiceError as error:
        if error.code == "too_large":
            return None
        raise


def _plain_jpeg(content: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG in its usual colours that stands upright, uint8 [H, W, 3]; None for all that needs Pillow.

    The same library decodes as in Pillow, to the same pixels, without the copies and the parsing in Python around it.
    """
    if not content.startswith(b"\xff\xd8") or EXIF in content:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in {"YCbCr", "Gray"} or width * height > max_pixels:
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, strict=True)
    except ValueError:  # Pillow finds the words for what is wrong with it
        return None
    return pixels
