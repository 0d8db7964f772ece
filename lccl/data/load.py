"""From a path to a data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from lccl.data import cifar
from lccl.data.files import ARCHIVES, Files, list_files
from lccl.data.images import FileImages
from lccl.data.reading import Progress, look_at
from lccl.data.splits import Dataset, Split
from lccl.decoding.pixels import Pixels
from lccl.errors import DataError
from lccl.preprocessing import Preprocessing

PARTS = {"train": "train", "test": "test", "val": "test", "validation": "test"}
SMALL, MEMORY = 64, 1 << 30


def load_dataset(
    path: Path, preprocessing: Preprocessing, *, cache: Path | None = None, progress: Progress = lambda *_: None
) -> Dataset:
    """Read a data set, every image brought to the network's input size.

    ``path`` is CIFAR-10's or CIFAR-100's binary folder, a folder ``train/<class>/<image>`` (and ``test`` or ``val``),
    a folder ``<class>/<image>`` without parts, or a ``.tar`` (also .xz, .gz, .bz2) of such folders. Small images (below
    64 pixels a side) are held in memory up to 1 GiB; all others are decoded when they are asked for. Files that cannot
    be used are skipped, and named in ``Dataset.skipped``.

    Args:
        cache: a folder for what is decoded and unpacked, which saves that work the next time; it may be removed at any
            time.
        progress: is told how many files have been looked at, and of how many.

    Raises:
        DataError: nothing usable is there, or an archive or CIFAR file is damaged.

    """
    if (path / "data_batch_1.bin").is_file() or (path / "train.bin").is_file():
        return cifar.read(path, preprocessing)
    if path.is_dir() or (path.is_file() and path.name.endswith(ARCHIVES)):
        return _from_files(list_files(path, cache), preprocessing, path, cache, progress)
    raise DataError(
        f"no data set at {path}: give CIFAR's binary folder, a folder train/<class>/<image>, or a .tar of one"
    )


def _from_files(
    files: Files, preprocessing: Preprocessing, source: Path, cache: Path | None, progress: Progress
) -> Dataset:
    files, places = _placed(files)
    shape = (len(files), preprocessing.size, preprocessing.size, 3)
    squares = np.zeros(shape, np.uint8) if preprocessing.size < SMALL and np.prod(shape) <= MEMORY else None
    taken = 0

    def take(number: int, pixels: Pixels) -> None:
        nonlocal taken
        if squares is not None:
            squares[number] = preprocessing.apply_to_pixels(pixels)
            taken += 1

    found = look_at(files, preprocessing.cover, cache, progress, take)
    usable = [number for number in range(len(files)) if number not in found.problems]
    skipped = tuple(f"{files.names[number]} ({problem})" for number, problem in found.problems.items())
    train, test = ([number for number in usable if places[number][0] == part] for part in ("train", "test"))
    if not train:
        why = f"; of {len(skipped)} files none can be read, the first being {skipped[0]}" if skipped else ""
        raise DataError(f"no images under {source}: they belong in train/<class>/<image>{why}")
    classes = tuple(sorted({places[number][1] for number in train}))
    strangers = {places[number][1] for number in test} - set(classes)
    if strangers:
        raise DataError(f"{source}: test has classes that train lacks: {', '.join(sorted(strangers))}")

    number_of = {name: number for number, name in enumerate(classes)}

    def split(numbers: list[int]) -> Split:
        index = np.array(numbers, dtype=np.int64)
        labels = np.array([number_of[places[number][1]] for number in numbers], dtype=np.int64)
        made = Split(FileImages(files, index, preprocessing, found.sources), labels, found.digests[index])
        if squares is None:
            return made
        return replace(made, images=squares[index]) if taken else made.loaded()  # a cache knew them already

    return Dataset(split(train), split(test), classes, skipped)


def _placed(files: Files) -> tuple[Files, list[tuple[str, str]]]:
    """The images that belong to the data set, and each one's part and class.

    Where no folder is named as a part, all images train, and each one's folder is its class.
    """
    places = [_place(name) for name in files.names]
    if not any(places):
        folders = [PurePosixPath(name).parent.name for name in files.names]
        places = [("train", folder) if folder else None for folder in folders]
    named = [(number, place) for number, place in enumerate(places) if place is not None]
    return files.select([number for number, _ in named]), [place for _, place in named]


def _place(name: str) -> tuple[str, str] | None:
    """The part and the class that an image's path names; None where it lies in no part."""
    parts = [part for part in PurePosixPath(name).parts if part != "."]
    position = next((index for index, part in enumerate(parts[:-2]) if part in PARTS), None)
    return None if position is None else (PARTS[parts[position]], parts[position + 1])
