"""Whatever a caller has as a picture → the encoded bytes that are sent."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Saveable(Protocol):
    """Something that writes itself in an image format, as Pillow's images do."""

    def save(self, fp: Any, format: str | None = None, /) -> Any: ...  # noqa: A002 - Pillow's name


@runtime_checkable
class Readable(Protocol):
    """An open binary file."""

    def read(self) -> bytes: ...


Picture = bytes | bytearray | memoryview | str | os.PathLike[str] | Saveable | Readable


def encoded(picture: Picture) -> bytes:
    """The bytes of an encoded picture: as they are, from a path or an open file, or a Pillow image as PNG.

    Raises:
        OSError: the file cannot be read.
        TypeError: none of these.

    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | os.PathLike):
        return Path(picture).read_bytes()
    if isinstance(picture, Saveable):
        out = io.BytesIO()
        picture.save(out, "PNG")
        return out.getvalue()
    if isinstance(picture, Readable):
        return picture.read()
    raise TypeError(f"a picture is bytes, a path, an open file or a Pillow image, not {type(picture).__name__}")
