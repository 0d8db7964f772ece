"""Data sets in memory: CIFAR's binary layout, class folders of images, and archives of class folders."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lccl.decoding.pixels import decode_rgb
from lccl.errors import DataError, ImageError, NotAnImageError, UnsupportedImageError
from lccl.preprocessing import Preprocessing

IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}
ARCHIVES = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".tar.bz2")
MAX_PIXELS = 1 << 28
PARTS = {"train": "train", "test": "test", "val": "test", "validation": "test"}
HELD_OUT = 5000


@dataclass(frozen=True, slots=True)
class Split:
    """Images uint8 [N, H, W, 3] and their class numbers int64 [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Split:
        return Split(self.images[:count], self.labels[:count])

    def subset(self, index: NDArray[np.int64]) -> Split:
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True, slots=True)
class Dataset:
    """Training images, test images (perhaps none) and the names of the classes."""

    train: Split
    test: Split
    classes: tuple[str, ...]

    def in_order_of(self, labels: tuple[str, ...]) -> Dataset:
        """The same images with their classes numbered in the order of ``labels``, a network's outputs.

        Raises:
            DataError: the labels are not exactly the classes.

        """
        if len(set(labels)) != len(labels):
            raise DataError(f"the label {max(labels, key=labels.count)!r} is there twice: each output needs its own")
        strange = sorted(set(labels) ^ set(self.classes))
        if strange:
            have, lack = ("the labels", "the data") if strange[0] in labels else ("the data", "the labels")
            raise DataError(f"{have} have a class {strange[0]!r} that {lack} lack: name the folders as the labels")
        number = {label: index for index, label in enumerate(labels)}
        new = np.array([number[name] for name in self.classes], dtype=np.int64)
        train, test = (Split(split.images, new[split.labels]) for split in (self.train, self.test))
        return Dataset(train, test, labels)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The training images in three disjoint parts: to train on, to choose thresholds on, to measure on.

    ``digest`` names both held-out parts: it changes when any of their images does.
    """

    train: Split
    choose: Split
    measure: Split
    digest: str


def load_dataset(path: Path, preprocessing: Preprocessing) -> Dataset:
    """Read a data set into memory, every image brought to the network's input size.

    ``path`` is CIFAR-10's or CIFAR-100's binary folder, a folder ``train/<class>/<image>`` (and
    ``test`` or ``val``), or a ``.tar`` (also .xz, .gz, .bz2) of such folders.

    Raises:
        DataError: nothing readable is there, or an image or file is damaged.

    """
    if path.is_file() and path.name.endswith(ARCHIVES):
        return _from_images(_archive_images(path), preprocessing, path)
    if (path / "data_batch_1.bin").is_file() or (path / "train.bin").is_file():
        return _from_binary(path, preprocessing)
    if path.is_dir():
        return _from_images(_folder_images(path), preprocessing, path)
    raise DataError(
        f"no data set at {path}: give CIFAR's binary folder, a folder train/<class>/<image>, or a .tar of one"
    )


def hold_out(train: Split, salt: str = "lccl") -> HeldOut:
    """Set two fixed parts of the training images aside: 5,000 each, or a tenth where there are fewer than 50,000.

    An image's part follows from the hash of its own pixels, so that neither the order of files nor
    the layout of the data set changes it.
    """
    size = min(HELD_OUT, len(train) // 10)
    keys = [hashlib.sha256(salt.encode() + image.tobytes()).digest() for image in train.images]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    digest = hashlib.sha256(b"".join(keys[index] for index in order[: 2 * size])).hexdigest()
    choose, measure, rest = np.split(order, [size, 2 * size])
    return HeldOut(train.subset(np.sort(rest)), train.subset(choose), train.subset(measure), digest)


def _from_binary(folder: Path, preprocessing: Preprocessing) -> Dataset:
    """CIFAR's records: one label byte (CIFAR-100: coarse, then fine), then 3 × 32 × 32 bytes, planes R, G, B."""
    hundred = (folder / "train.bin").is_file()
    label_bytes, count, names = (2, 100, "fine_label_names.txt") if hundred else (1, 10, "batches.meta.txt")
    train = [folder / "train.bin"] if hundred else sorted(folder.glob("data_batch_*.bin"))
    test = folder / ("test.bin" if hundred else "test_batch.bin")
    try:
        classes = tuple((folder / names).read_text(encoding="utf-8").split())
    except OSError:
        classes = tuple(str(number) for number in range(count))
    if len(classes) != count:
        raise DataError(f"{folder / names} names {len(classes)} classes, not {count}")
    read = [_binary_records(file, label_bytes, count, preprocessing) for file in train]
    parts = Split(np.concatenate([part.images for part in read]), np.concatenate([part.labels for part in read]))
    held = test.is_file()
    return Dataset(parts, _binary_records(test, label_bytes, count, preprocessing) if held else parts.first(0), classes)


def _binary_records(file: Path, label_bytes: int, classes: int, preprocessing: Preprocessing) -> Split:
    data = np.fromfile(file, dtype=np.uint8)
    record = label_bytes + 3072
    if not len(data) or len(data) % record:
        raise DataError(f"{file} is damaged: {len(data)} bytes are no whole number of {record}-byte records")
    rows = data.reshape(-1, record)
    labels = rows[:, label_bytes - 1].astype(np.int64)
    if labels.max() >= classes:
        raise DataError(f"{file} is damaged: label {labels.max()} of {classes} classes")
    images = np.ascontiguousarray(rows[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    if (preprocessing.size, preprocessing.resize) != (32, 32):
        images = np.stack([preprocessing.apply(Image.fromarray(image)) for image in images])
    return Split(images, labels)


def _folder_images(folder: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in IMAGES and file.is_file():
            yield PurePosixPath(file.relative_to(folder).as_posix()), file.read_bytes()


def _archive_images(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Images of an archive in its own order; nothing is written to disk."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None and name.suffix.lower() in IMAGES:
                    yield name, content.read()
            if archive.fileobj is None or archive.fileobj.read(tarfile.RECORDSIZE).strip(b"\0"):
                raise tarfile.ReadError("a header is damaged")  # tarfile takes it for the end
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{path} is not a readable archive: {error}") from error


def _from_images(images: Iterable[tuple[PurePosixPath, bytes]], preprocessing: Preprocessing, source: Path) -> Dataset:
    images_of: dict[str, list[tuple[str, NDArray[np.uint8]]]] = {"train": [], "test": []}
    for name, content in images:
        parts = [part for part in name.parts if part != "."]
        position = next((index for index, part in enumerate(parts[:-2]) if part in PARTS), None)
        if position is None:
            continue
        try:
            images_of[PARTS[parts[position]]].append((parts[position + 1], _decode(content, preprocessing)))
        except (ImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{source}: {name} is not a readable image: {error}") from error
    if not images_of["train"]:
        raise DataError(f"no images under {source}: they belong in train/<class>/<image>")
    classes = tuple(sorted({label for label, _ in images_of["train"]}))
    strangers = {label for label, _ in images_of["test"]} - set(classes)
    if strangers:
        raise DataError(f"{source}: test has classes that train lacks: {', '.join(sorted(strangers))}")
    train = _stack(images_of["train"], classes)
    return Dataset(train, _stack(images_of["test"], classes) if images_of["test"] else train.first(0), classes)


def _decode(content: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """As serving decodes it; formats that are not served are left to Pillow."""
    try:
        return preprocessing.apply_to_pixels(decode_rgb(content, MAX_PIXELS))
    except UnsupportedImageError:
        raise
    except NotAnImageError:
        with Image.open(io.BytesIO(content)) as image:
            return preprocessing.apply(image)


def _stack(images: list[tuple[str, NDArray[np.uint8]]], classes: tuple[str, ...]) -> Split:
    number = {label: index for index, label in enumerate(classes)}
    labels = np.array([number[label] for label, _ in images], dtype=np.int64)
    return Split(np.stack([image for _, image in images]), labels)
