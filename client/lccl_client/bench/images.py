"""The images that a benchmark sends: a folder's, with the classes of its subfolders, or drawn here."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
from PIL import Image

from lccl_client.load import Body

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})
DRAWN = 64
COARSENESS = 5


def from_folder(folder: Path, limit: int | None, seed: int) -> list[Body]:
    """The images of a folder, or of its subfolders with their names as labels; at most ``limit``, drawn from the seed.

    Raises:
        ValueError: no images, or images both beside the subfolders and in them.

    """
    subfolders = sorted(inside for inside in folder.iterdir() if inside.is_dir())
    flat, labelled = (
        _images_in(folder, None),
        [file for inside in subfolders for file in _images_in(inside, inside.name)],
    )
    if bool(flat) == bool(labelled):
        where = "both in it and in its subfolders" if flat else "neither in it nor in its subfolders"
        raise ValueError(f"{folder} has images {where}: give a folder of images or of <class>/<image>")
    files = flat + labelled
    if limit is not None and limit < len(files):
        files = random.Random(seed).sample(files, limit)
    return [Body(file.read_bytes(), label) for file, label in files]


def drawn(size: str, seed: int) -> list[Body]:
    """JPEGs of soft noise, which compress about as photographs do.

    Args:
        size: ``WIDTHxHEIGHT``.
        seed: of the noise.

    Raises:
        ValueError: not a size.

    """
    width, cross, height = size.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(f"{size!r} is not a size such as 32x32")
    return [_draw(int(width), int(height), seed + number) for number in range(DRAWN)]


def _draw(width: int, height: int, seed: int) -> Body:
    coarse = (-(-height // COARSENESS), -(-width // COARSENESS), 3)
    noise = np.random.default_rng(seed).integers(0, 256, coarse, dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return Body(out.getvalue())


def _images_in(folder: Path, label: str | None) -> list[tuple[Path, str | None]]:
    return [(file, label) for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES and file.is_file()]
