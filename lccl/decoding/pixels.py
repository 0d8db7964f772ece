"""Encoded images → upright 8-bit RGB over white: the only place that decides orientation, transparency and colour.

JPEGs in their usual colours are decoded by simplejpeg, which also tells of damage that Pillow passes over; most PNGs
and WebPs by imagecodecs where it is installed; all else by Pillow. They give Pillow's pixels, from the same libraries
underneath, in less time and without keeping Python's other threads waiting.
"""

import io
import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lccl.decoding.containers import (
    EXIF,
    JPEG_END,
    JPEG_START,
    Container,
    claimed_size,
    exif_orientation,
    first_scan,
    read_container,
)
from lccl.errors import (
    DamagedImageError,
    ImageError,
    ImageTooLargeError,
    NotAnImageError,
    UnsupportedImageError,
)

if find_spec("simplejpeg") is not None:
    import simplejpeg
else:  # pragma: no cover: where pip did not install what lccl needs
    simplejpeg = None
if find_spec("imagecodecs") is not None:
    import imagecodecs
else:  # pragma: no cover: only service installations have it
    imagecodecs = None  # type: ignore[assignment]

WHITE = 255
FACTORS = (8, 4, 2)
SMALLEST_COVER = 8
NO_MEMORY = "the image needs more memory than there is"
ROOM_PER_PIXEL = 8  # bytes: what is decoded, and a copy
USUAL_COLOURS = ("Gray", "YCbCr", "RGB")
SCAN, MOST_SCANS = b"\xff\xda", 100  # encoders make some ten; each costs a pass over all pixels, for a few bytes
LONG_BYTES = 1 << 14
BAND_PIXELS = 1 << 18  # composed in some 3 ms
Pixels = NDArray[np.uint8]

STRIPE_PIXELS = 1 << 18  # converted in some milliseconds


def decode_rgb(content: bytes, max_pixels: int, cover: int = 0) -> Pixels:
    """Decode one image, of an animation the first frame: uint8 [height, width, 3].

    The size is read from the header and checked before any pixel is decoded, so that a small file that claims to be
    huge costs nothing.

    Args:
        cover: pixels that the shorter side of a JPEG must still have; it is decoded reduced by :func:`reduction`. Other
            formats, and all of them with 0, are decoded whole.

    Raises:
        NotAnImageError: no JPEG, PNG, WebP, GIF, BMP or AVIF.
        UnsupportedImageError: a form of them that is not decoded here.
        ImageTooLargeError: more than ``max_pixels`` pixels, or more memory than there is.
        DamagedImageError: empty, truncated, corrupt or lying about itself.

    """
    if not content:
        raise DamagedImageError("the image is empty: send its bytes")
    is_jpeg, head, one_scan = content.startswith(JPEG_START), len(content), False
    if is_jpeg and head > LONG_BYTES:  # what is shorter is sooner searched
        head, one_scan = first_scan(content)
    if is_jpeg and not one_scan and content.count(SCAN) > MOST_SCANS:
        raise UnsupportedImageError(f"a JPEG of more than {MOST_SCANS} scans is not read here: save it anew")
    try:
        # A JPEG without EXIF and with its end marker need not be taken apart.
        whole = is_jpeg and content.endswith(JPEG_END) and content.find(EXIF, 0, head) < 0
        pixels = _fast_jpeg(content, max_pixels, cover) if whole else None
        if pixels is not None:
            return pixels
        container = read_container(content)
        ended = container.content if container.ended else container.content + JPEG_END
        pixels, orientation = _fast_jpeg(ended, max_pixels, cover), container.orientation
        if pixels is None:
            pixels = _fast_png_or_webp(container, max_pixels)
        if pixels is None:
            pixels, orientation = _with_pillow(container, max_pixels, cover)
        return upright(pixels, orientation)
    except MemoryError as error:
        raise ImageTooLargeError(NO_MEMORY) from error


def image_to_rgb(image: Image.Image, cover: int = 0) -> Pixels:
    """The same for an image that Pillow has opened: uint8 [height, width, 3].

    A JPEG can be reduced as long as it is not loaded; its object then has the reduced size.
    """
    _reduce(image, cover)
    return upright(rgb_over_white(image), exif_orientation(image.info.get("exif") or b""))


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn pixels [H, W, 3] upright, by EXIF's orientation 1 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def reduction(width: int, height: int, cover: int) -> int:
    """By how much a JPEG is reduced while it is decoded: 8, 4, 2 or 1, the most that leaves ``cover`` pixels a side.

    Of the eighths that libjpeg-turbo can decode at, 1, 2, 4 and 8: the others take longer than the whole image does
    (500 × 375 pixels: 7.2 ms at 5/8, 2.7 ms whole), and Pillow cannot ask for them. Sizes are rounded up.
    """
    shorter = min(width, height)
    if cover < SMALLEST_COVER:
        return 1
    return next((factor for factor in FACTORS if -(-shorter // factor) >= cover), 1)


def _reduce(image: Image.Image, cover: int) -> None:
    """Have Pillow decode a JPEG reduced, all of it else."""
    width, height = image.size
    factor = reduction(width, height, cover)
    if factor > 1:
        image.draft(None, (width // factor, height // factor))


def _fast_jpeg(content: bytes, max_pixels: int, cover: int) -> Pixels | None:
    """The pixels of a JPEG with its end marker, in its usual colours; None for all that needs Pillow."""
    if simplejpeg is None or not content.startswith(JPEG_START):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in USUAL_COLOURS:
            return None
        _check_size(width, height, max_pixels)
        factor = reduction(width, height, cover)
        least = (-(-height // factor), -(-width // factor)) if factor > 1 else (0, 0)
        pixels: Pixels = simplejpeg.decode_jpeg(content, strict=True, min_height=least[0], min_width=least[1])
    except ValueError as error:
        _check_damage(str(error).lower())
        _check_memory(error)
        return None  # Pillow decodes what can be decoded all the same, or finds the words for what is wrong
    return pixels


def _check_damage(warning: str) -> None:
    """Raise for what libjpeg only warns of although it makes up pixels; bytes too many between parts do no harm."""
    if "premature end" in warning or ("found marker 0xd9" in warning and "instead of" in warning):
        raise DamagedImageError("the image cannot be decoded: the JPEG ends early")
    if "corrupt jpeg data" in warning and "extraneous bytes" not in warning:
        raise DamagedImageError(f"the image cannot be decoded: {warning}")


def _fast_png_or_webp(container: Container, max_pixels: int) -> Pixels | None:
    """The pixels of an intact plain PNG or WebP; None for all that needs Pillow."""
    size = claimed_size(container.content) if container.plain and imagecodecs is not None else None
    if size is None:
        return None
    _check_size(*size, max_pixels)
    decode = imagecodecs.png_decode if container.kind == "PNG" else imagecodecs.webp_decode
    try:
        pixels: NDArray[Any] = decode(container.content)
    except MemoryError:
        raise
    except Exception as error:  # Pillow finds the words for what is wrong
        _check_memory(error)
        return None
    if pixels.dtype == np.uint16:
        pixels = _upper_bytes(pixels)
    if pixels.shape[2:] == (3,):
        return pixels
    return rgb_over_white(Image.fromarray(pixels), container)  # grey, or with transparency


def _with_pillow(container: Container, max_pixels: int, cover: int) -> tuple[Pixels, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # our own limit follows; other warnings are about metadata
        try:
            with Image.open(io.BytesIO(container.content), formats=(container.kind,)) as image:
                _check_size(*image.size, max_pixels)
                if container.kind == "JPEG":
                    _reduce(image, cover)
                image.load()
                orientation = container.orientation
                if container.kind == "AVIF":
                    orientation = exif_orientation(image.info.get("exif") or b"")
                return rgb_over_white(image, container), orientation
        except Image.DecompressionBombError as error:
            raise ImageTooLargeError(f"the image has too many pixels; at most {max_pixels:,} are taken") from error
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # Pillow's decoders raise whatever their format runs into
            _check_memory(error)
            _check_room(container, max_pixels)
            if container.kind == "BMP" and "nsupported" in str(error):
                raise UnsupportedImageError(f"this form of BMP is not read here ({_brief(error)})") from error
            if isinstance(error, UnidentifiedImageError):
                raise NotAnImageError(f"not an image that is read here: its {container.kind} header is not") from error
            raise DamagedImageError(f"the image cannot be decoded: {_brief(error)}") from error


def _check_memory(error: Exception) -> None:
    """Raise a MemoryError for what a library in C tells of its memory by a text alone."""
    if "memory" in str(error).lower():
        raise MemoryError from error


def _check_room(container: Container, max_pixels: int) -> None:
    """Raise a MemoryError where decoding failed and its memory cannot be had: libwebp calls that damage, too."""
    width, height = claimed_size(container.content) or (0, 0)
    np.empty(ROOM_PER_PIXEL * min(width * height, max_pixels), np.uint8)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageTooLargeError(f"the image has {width} × {height} pixels; at most {max_pixels:,} are taken")
    if not width or not height:
        raise DamagedImageError("the image has no pixels")


def rgb_over_white(image: Image.Image, container: Container | None = None) -> Pixels:
    """8-bit RGB: transparency over white, 16 bits by their upper 8.

    In stripes, between which other threads of Python run: Pillow and numpy keep the interpreter while they convert.
    """
    width, height = image.size
    rows = max(1, STRIPE_PIXELS // max(1, width))
    # Whether a BMP's alpha counts, only all of it says.
    if height <= rows or (container is not None and container.kind == "BMP"):
        return _stripe_over_white(image, container)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        stripe = image.crop((0, top, width, min(height, top + rows)))
        pixels[top : top + rows] = _stripe_over_white(stripe, container)
    return pixels


def _stripe_over_white(image: Image.Image, container: Container | None) -> Pixels:
    if container is not None and container.transparent:
        return _with_transparent_colour(image, container)
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        return _three(_upper_bits(np.asarray(image)))
    if image.mode == "F":
        return _three(np.nan_to_num(np.asarray(image)).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        if container is not None and container.kind == "BMP" and not np.asarray(image)[..., 3].any():
            return np.asarray(image)[..., :3]  # Windows programs write masks of alpha and leave them 0
        return _over_white(image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _over_white(image: Image.Image) -> Pixels:
    """An image in RGBA over white, in bands: Pillow keeps Python's other threads waiting while it composes one."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(height, top + rows)))
        white = Image.new("RGBA", band.size, (WHITE, WHITE, WHITE, WHITE))
        pixels[top : top + rows] = np.asarray(Image.alpha_composite(white, band).convert("RGB"))
    return pixels


def _with_transparent_colour(image: Image.Image, container: Container) -> Pixels:
    """A PNG in grey or RGB of which one colour is transparent; of 16-bit RGB the decoder leaves the upper 8 bits."""
    depth, samples = container.depth, np.array(container.transparent)
    if image.mode == "RGB":
        pixels = np.array(image)
        hidden = (pixels == (samples >> 8 if depth == 16 else samples)).all(axis=2)
    elif depth == 16:
        values = np.asarray(image)
        pixels, hidden = _three(_upper_bits(values)).copy(), values == samples[0]
    else:
        grey = np.asarray(image.convert("L"))
        pixels, hidden = _three(grey).copy(), grey == samples[0] * 255 // ((1 << depth) - 1)
    pixels[hidden] = WHITE
    return pixels


def _upper_bits(values: NDArray[np.generic]) -> Pixels:
    return (values.astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)


def _upper_bytes(values: NDArray[np.uint16]) -> Pixels:
    """The same in stripes, of 16 bits."""
    pixels = np.empty(values.shape, np.uint8)
    rows = max(1, STRIPE_PIXELS // values.shape[1])
    for top in range(0, len(values), rows):
        pixels[top : top + rows] = values[top : top + rows] >> 8
    return pixels


def _three(grey: Pixels) -> Pixels:
    return np.repeat(grey[..., None], 3, axis=2)


def _brief(error: Exception) -> str:
    text = str(error).splitlines()
    return text[0][:120] if text and text[0] else type(error).__name__
