"""Images with their classes, and the held-out parts of a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lccl.data.images import FileImages
from lccl.errors import DataError

HELD_OUT = 5000
AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Split:
    """Images uint8 [N, H, W, 3], in memory or decoded when they are asked for, and their class numbers int64 [N].

    ``identities``, uint8 [N, K], are what an image's part follows from: its file's SHA-256, or a record's own bytes.
    Without them an image is its pixels.
    """

    images: NDArray[np.uint8] | FileImages
    labels: NDArray[np.int64]
    identities: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Split:
        return self._select(slice(count))

    def subset(self, index: NDArray[np.int64]) -> Split:
        return self._select(index)

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        """Images and labels, at most ``size`` at a time; while one batch is used, the next one is decoded."""
        starts = range(0, len(self), size)
        labels = (self.labels[start : start + size] for start in starts)
        if not isinstance(self.images, FileImages):
            yield from zip((self.images[start : start + size] for start in starts), labels, strict=True)
            return
        with ThreadPoolExecutor(1) as ahead:
            coming = None
            for start, given in zip([*starts, None], [None, *labels], strict=True):
                last, coming = coming, None
                if start is not None:
                    coming = ahead.submit(self.images.__getitem__, slice(start, start + size))
                if last is not None and given is not None:
                    yield last.result(), given

    def loaded(self) -> Split:
        """The same in memory, for what is looked at again and again."""
        return replace(self, images=self.images[:]) if isinstance(self.images, FileImages) else self

    def _select(self, index: NDArray[np.int64] | slice) -> Split:
        images = self.images.select(index) if isinstance(self.images, FileImages) else self.images[index]
        return Split(images, self.labels[index], None if self.identities is None else self.identities[index])


@dataclass(frozen=True, slots=True)
class Dataset:
    """Training images, test images (perhaps none) and the names of the classes.

    ``skipped`` names the files that could not be used, each with the reason.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()

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
        train, test = (replace(split, labels=new[split.labels]) for split in (self.train, self.test))
        return replace(self, train=train, test=test, classes=labels)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The training images in three disjoint parts: to train on, to choose thresholds on, to measure on.

    ``digest`` names both held-out parts: it changes when any of their images does. ``by`` says what dealt them:
    ``files`` (the files' bytes) or ``pixels`` (as they reach the network).
    """

    train: Split
    choose: Split
    measure: Split
    digest: str
    by: str = "files"


def hold_out(train: Split, salt: str = "lccl", by: str = "files") -> HeldOut:
    """Set two fixed parts of the training images aside: 5,000 each, or a tenth where there are fewer than 50,000.

    An image's part follows from the hash of its file's bytes, so that neither the order of files, nor the layout of
    the data set, nor the network's input size or decoder changes it. Bundles that do not say so were made when parts
    were dealt ``by`` the ``pixels`` of the network's input.
    """
    size = min(HELD_OUT, len(train) // 10)
    keys = [hashlib.sha256(salt.encode() + identity).digest() for identity in _identities(train, by)]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    digest = hashlib.sha256(b"".join(keys[index] for index in order[: 2 * size])).hexdigest()
    choose, measure, rest = np.split(order, [size, 2 * size])
    return HeldOut(train.subset(np.sort(rest)), train.subset(choose), train.subset(measure), digest, by)


def _identities(split: Split, by: str) -> Iterator[bytes]:
    if by not in ("files", "pixels"):
        raise DataError(f"the held-out images were dealt by {by!r}, which is not known here")
    if by == "files" and split.identities is not None:
        yield from (identity.tobytes() for identity in split.identities)
        return
    for images, _ in split.batches(AT_ONCE):
        yield from (image.tobytes() for image in images)
