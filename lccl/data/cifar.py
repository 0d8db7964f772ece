"""CIFAR-10's and CIFAR-100's binary layout, in memory."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lccl.data.splits import Dataset, Split
from lccl.errors import DataError
from lccl.preprocessing import Preprocessing


def read(folder: Path, preprocessing: Preprocessing) -> Dataset:
    """CIFAR's records: one label byte (CIFAR-100: coarse, then fine), then 3 × 32 × 32 bytes, planes R, G, B.

    Raises:
        DataError: a file is damaged.

    """
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
    parts = _records(train, label_bytes, count, preprocessing)
    held = test.is_file()
    return Dataset(parts, _records([test], label_bytes, count, preprocessing) if held else parts.first(0), classes)


def _records(files: list[Path], label_bytes: int, classes: int, preprocessing: Preprocessing) -> Split:
    read = [_binary_records(file, label_bytes, classes) for file in files]
    images, labels = (np.concatenate([part[number] for part in read]) for number in (0, 1))
    identities = images.reshape(len(images), -1)
    if (preprocessing.size, preprocessing.resize) != (32, 32):
        images = np.stack([preprocessing.apply_to_pixels(image) for image in images])
    return Split(images, labels, identities)


def _binary_records(file: Path, label_bytes: int, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    data = np.fromfile(file, dtype=np.uint8)
    record = label_bytes + 3072
    if not len(data) or len(data) % record:
        raise DataError(f"{file} is damaged: {len(data)} bytes are no whole number of {record}-byte records")
    rows = data.reshape(-1, record)
    labels = rows[:, label_bytes - 1].astype(np.int64)
    if labels.max() >= classes:
        raise DataError(f"{file} is damaged: label {labels.max()} of {classes} classes")
    images = np.ascontiguousarray(rows[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, labels
