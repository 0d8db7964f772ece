"""The first look at every file of a data set: its hash, whether it can be decoded, and its pixels for a cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lccl.data.files import Files
from lccl.data.images import UNREADABLE, read_source
from lccl.data.sources import Sources, SourcesWriter, most_pixels, open_sources
from lccl.decoding.pixels import Pixels
from lccl.errors import DataError

Progress = Callable[[int, int], None]
Taken = Callable[[int, Pixels], None]
AT_ONCE = 64
DIGESTS, PROBLEMS = "digests.npy", "problems.json"
DECODERS = ("pillow", "simplejpeg", "imagecodecs")
FORM = "2"  # of what a cache keeps: counted up where decoding or what is kept changes, so that older ones are not read


@dataclass(frozen=True, slots=True, eq=False)
class FirstLook:
    """What was found.

    Attributes:
        digests: SHA-256 of each file's bytes, uint8 [N, 32].
        problems: by number, why a file cannot be used.
        sources: decoded images in a cache.

    """

    digests: NDArray[np.uint8]
    problems: dict[int, str]
    sources: Sources | None = None


def look_at(
    files: Files, cover: int, cache: Path | None, progress: Progress, take: Taken = lambda *_: None
) -> FirstLook:
    """Read every file once, and decode it: so what cannot be used is known before the parts are dealt.

    Args:
        cover: see :func:`lccl.decoding.pixels.decode_rgb`.
        cache: a folder that keeps the findings and the decoded pixels; what it has already is not read again.
        progress: is told how many files are done, and of how many.
        take: is given each readable image, unless the cache knows it already.

    Raises:
        DataError: the cache cannot be written, or is damaged.

    """
    if cache is None:
        return _look(files, cover, progress, take)
    folder = cache / _key(files, cover)
    if not folder.is_dir():
        fresh = cache / f"{folder.name}.{os.getpid()}.new"
        try:
            fresh.mkdir(parents=True)
            writer = SourcesWriter(fresh, len(files), most_pixels(cover))

            def keep(number: int, pixels: Pixels) -> None:
                writer.add(number, pixels)
                take(number, pixels)

            found = _look(files, cover, progress, keep)
            writer.close()
            np.save(fresh / DIGESTS, found.digests)
            (fresh / PROBLEMS).write_text(json.dumps(list(found.problems.items())), encoding="utf-8")
            _put(fresh, folder)
        except OSError as error:
            raise DataError(f"the cache {cache} cannot be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    try:
        problems = dict(json.loads((folder / PROBLEMS).read_text(encoding="utf-8")))
        return FirstLook(np.load(folder / DIGESTS), problems, open_sources(folder))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{folder} in the cache is damaged, remove it: {error}") from error


def _put(fresh: Path, folder: Path) -> None:
    """Rename a folder; where another process was faster, what it put there is as good."""
    try:
        fresh.replace(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _look(files: Files, cover: int, progress: Progress, take: Taken) -> FirstLook:
    digests, problems = np.zeros((len(files), 32), dtype=np.uint8), {}
    for number, (digest, pixels) in enumerate(_read_all(files, cover)):
        digests[number] = np.frombuffer(digest, np.uint8)
        if isinstance(pixels, str):
            problems[number] = pixels
        else:
            take(number, pixels)
        progress(number + 1, len(files))
    return FirstLook(digests, problems)


def _read_all(files: Files, cover: int) -> Iterator[tuple[bytes, Pixels | str]]:
    """In order, a few at a time, so that memory does not depend on how many there are."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, len(files), AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, len(files)))
            yield from threads.map(partial(_read, files, cover), numbers)


def _read(files: Files, cover: int, number: int) -> tuple[bytes, Pixels | str]:
    """A file's hash, and its pixels or what is wrong with it.

    Raises:
        DataError: it could not be read now. That says nothing of the file, which therefore must not be left out.

    """
    content = b""
    try:
        content = files.read(number)
    except FileNotFoundError:
        return hashlib.sha256(content).digest(), "the file is not there"
    except OSError as error:
        raise DataError(f"{files.names[number]} cannot be read: {error.strerror or error}") from error
    try:
        pixels: Pixels | str = read_source(content, cover)
    except UNREADABLE as error:
        pixels = str(error) or type(error).__name__
    return hashlib.sha256(content).digest(), pixels


def _key(files: Files, cover: int) -> str:
    """What the pixels follow from: the files, how far they are reduced, and what decodes them."""
    parts = [FORM, files.stamp, str(cover), *(_version(name) for name in DECODERS)]
    names = hashlib.sha256("\n".join(files.names).encode()).hexdigest()
    return hashlib.sha256(" ".join([*parts, names]).encode()).hexdigest()[:16]


def _version(name: str) -> str:
    try:
        return f"{name}-{version(name)}"
    except PackageNotFoundError:
        return f"no {name}"
