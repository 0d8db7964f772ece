"""What ``lccl-client bench`` sends, as it is typed: images, rates, and quality requests with weights.

A rate is ``200``, ``50,100`` or ``100..400``; with an ``x`` at the end, a multiple of the capacity.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import numpy as np
from PIL import Image

from lccl_client import wire
from lccl_client.load import Body, Stream

FIELDS = ("sparsity", "operating_point", "max_accuracy_drop", "deadline_ms", "exit_confidence", "top_k")
EXACT = "exact"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})
DRAWN = 64
COARSENESS = 5


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests a second, or a multiple of the capacity."""

    value: float
    of_capacity: bool

    def per_second(self, capacity: float) -> float:
        """Requests a second, at this capacity in requests a second."""
        return self.value * capacity if self.of_capacity else self.value


def from_folder(folder: Path, limit: int | None, seed: int) -> list[Body]:
    """The images of a folder, or of its subfolders with their names as labels; at most ``limit``, drawn from the seed.

    Raises:
        ValueError: no images, or images both beside the subfolders and in them.

    """
    subfolders = sorted(inside for inside in folder.iterdir() if inside.is_dir())
    flat = _images_in(folder, None)
    labelled = [file for inside in subfolders for file in _images_in(inside, inside.name)]
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


def parse_rates(texts: list[str], steps: int) -> list[Rate]:
    """Read rates in the order given; a range becomes ``steps`` rates, two or more, with equal ratios between them.

    Raises:
        ValueError: not a rate, or not a positive one.

    """
    return [rate for text in texts for rate in _parse(text.strip(), steps)]


def stream(text: str, bodies: Sequence[Body], model: str | None, version: str | None, api_key: str | None) -> Stream:
    """Requests of single images with one quality.

    Args:
        text: ``FIELD=VALUE&FIELD=VALUE:WEIGHT``; ``exact`` sets no field, and a weight left out is 1.
        bodies: the images.
        model: None: the server's default.
        version: None: the newest.
        api_key: None: none is sent.

    Raises:
        ValueError: an unknown field, no positive weight, or a version without a model.

    """
    name, _, weight = text.rpartition(":") if ":" in text else (text, "", "1")
    if not name:
        raise ValueError(f"{text!r} is no quality request: say exact, or FIELD=VALUE")
    fields = {} if name == EXACT else dict(parse_qsl(name, keep_blank_values=True, strict_parsing=True))
    unknown = set(fields) - set(FIELDS)
    if unknown:
        raise ValueError(f"{text!r}: {min(unknown)!r} is no field of a quality request: use {', '.join(FIELDS)}")
    call = wire.classify([b""], model=model, version=version, **fields)
    path = f"{call.url}?{urlencode(call.params)}" if call.params else call.url
    headers = {**call.headers, **wire.key_headers(api_key)}
    return Stream(name, call.method, path, headers, tuple(bodies), float(weight))


def _draw(width: int, height: int, seed: int) -> Body:
    coarse = (-(-height // COARSENESS), -(-width // COARSENESS), 3)
    noise = np.random.default_rng(seed).integers(0, 256, coarse, dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return Body(out.getvalue())


def _images_in(folder: Path, label: str | None) -> list[tuple[Path, str | None]]:
    return [(file, label) for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES and file.is_file()]


def _parse(text: str, steps: int) -> list[Rate]:
    of_capacity = text.endswith("x")
    try:
        values = [value for part in text.removesuffix("x").split(",") for value in _values(part, steps)]
    except ValueError as error:
        raise ValueError(f"{text!r} is no rate: say 200, 50,100, 100..400, or 0.5..3x of the capacity") from error
    return [Rate(value, of_capacity) for value in values]


def _values(part: str, steps: int) -> list[float]:
    low, dots, high = part.partition("..")
    first, last = float(low), float(high if dots else low)
    if not (0 < first <= last < math.inf):
        raise ValueError("rates are positive, and ranges rise")
    return [float(rate) for rate in np.geomspace(first, last, steps if dots else 1)]
