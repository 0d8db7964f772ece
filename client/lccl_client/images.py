"""The forms in which a caller may pass an image → the encoded bytes that are sent."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import PIL.Image

Image: TypeAlias = "bytes | bytearray | memoryview | str | os.PathLike[str] | PIL.Image.Image | IO[bytes]"

PNG_MODES = frozenset(("1", "L", "LA", "RGB", "RGBA", "I;16", "I;16B"))
CONVERSIONS = {"I": ("I;16",), "I;16L": ("I", "I;16"), "I;16N": ("I", "I;16"), "F": ("L",), "La": ("LA",)}


def encoded(image: Image) -> bytes:
    """The bytes of an encoded image: as they are, from a path or an open file, or a Pillow image as PNG.

    Raises:
        OSError: the file cannot be read.
        TypeError: the image has another type.

    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes()
    pillow = sys.modules.get("PIL.Image")  # not imported: no image is Pillow's
    if pillow is not None and isinstance(image, pillow.Image):
        return _as_png(image)
    if hasattr(image, "read"):
        return image.read()
    raise TypeError(f"an image is bytes, a path, an open file or a Pillow image, not {type(image).__name__}")


def _as_png(image: PIL.Image.Image) -> bytes:
    """The pixels without loss, as far as PNG has their mode; EXIF goes along, so that the server turns them upright."""
    tiles = getattr(image, "tile", None)  # of a file whose pixels are not yet read, with their mode there
    stored = tiles[0].args if tiles else None
    image.load()
    exif, key = image.info.get("exif"), image.info.get("transparency")
    if image.format == "BMP" and image.mode == "RGBA" and not image.getchannel("A").getbbox():
        image = image.convert("RGB")  # Windows programs write opaque images with an alpha of 0
    elif image.mode not in PNG_MODES:
        for mode in CONVERSIONS.get(image.mode, ("RGBA" if image.has_transparency_data else "RGB",)):
            image = image.convert(mode)
    options = {"exif": exif, "icc_profile": None}
    # Pillow brings samples to 8 bits, but not the transparent colour of a PNG.
    if image.mode == "L" and stored in ("L;2", "L;4") and key is not None:
        options["transparency"] = key * 255 // (2 ** int(stored[2]) - 1)
    elif image.mode == "RGB" and isinstance(key, tuple) and (stored == "RGB;16B" or max(key) > 255):
        options["transparency"] = tuple(sample >> 8 for sample in key)
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()
