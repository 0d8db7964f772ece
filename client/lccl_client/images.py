"""The forms in which a caller may pass an image → the encoded bytes that are sent."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable


@runtime_checkable
class Saveable(Protocol):
    """Something that writes itself in an image format, as Pillow's images do."""

    def save(self, fp: Any, format: str | None = None, /) -> Any: ...  # noqa: A002 - Pillow's name


Image = bytes | bytearray | memoryview | str | os.PathLike[str] | Saveable | IO[bytes]


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
    if isinstance(image, Saveable):
        out = io.BytesIO()
        image.save(out, "PNG")
        return out.getvalue()
    if hasattr(image, "read"):
        return image.read()
    raise TypeError(f"an image is bytes, a path, an open file or a Pillow image, not {type(image).__name__}")
