"""Bundles by name, images at each size, and what is measured on them, each figure once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import lccl
from benchmarks.models import Position
from lccl.bundle.format import DESCRIPTION, Bundle
from lccl.data import HeldOut, Split, hold_out, load_dataset
from lccl.engines.base import Engine
from lccl.errors import LcclError
from lccl.measurement import Measurement, measure
from lccl.plan.run import Setting

TWIN = "plain"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A network at one size under one setting.

    Attributes:
        point: what the setting is called.
        macs: of an image, where not all that runs here would have to; else they are counted.
        removed: the blocks whose branches it does without.

    """

    network: str
    size: int
    point: str
    setting: Setting
    macs: int | None = None
    removed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The choosing part and the test images at one size, in memory."""

    size: int
    choose: Split
    test: Split


class Bench:
    """What is measured, in fp32 on the engine that serves; images of one size at a time are in memory."""

    def __init__(self, bundles: dict[str, Bundle], data: Path, cache: Path | None = None, threads: int = 0) -> None:
        self.bundles, self._data, self._cache, self._threads = bundles, data, cache, threads
        self._engines: dict[tuple[str, int], Engine] = {}
        self._measured: dict[tuple[Candidate, str], Measurement] = {}
        self._parts: Parts | None = None
        self.twin_macs = bundles[TWIN].shape.dense
        for name, bundle in bundles.items():
            self._check(name, bundle)

    def _check(self, name: str, bundle: Bundle) -> None:
        twin = self.bundles[TWIN]
        given, own = twin.preprocessing.at(bundle.preprocessing.size), bundle.preprocessing
        if bundle.labels != twin.labels or bundle.splits.get("digest") != twin.splits.get("digest"):
            raise LcclError(f"{name} was trained on other images or classes than {TWIN}")
        if replace(own, mean=given.mean, std=given.std) != given:
            raise LcclError(f"{name} is given its images in another way than {TWIN}: train it with the same --fit")

    def engine(self, network: str, size: int) -> Engine:
        if (network, size) not in self._engines:
            bundle = self.bundles[network]
            resized = replace(bundle, preprocessing=bundle.preprocessing.at(size))
            self._engines[network, size] = lccl.compile(resized, precision="fp32", threads=self._threads)
        return self._engines[network, size]

    def parts(self, size: int) -> Parts:
        """The images at one size; those of the size before are forgotten."""
        if self._parts is None or self._parts.size != size:
            self._parts = None
            held, test = self._read(size)
            self._parts = Parts(size, held.choose.loaded(), test.loaded())
        return self._parts

    def some_test_images(self, size: int, count: int) -> Split:
        """So many test images drawn by chance, the same ones at every size."""
        _, test = self._read(size)
        return test.subset(np.random.default_rng(0).permutation(len(test))[:count]).loaded()

    def _read(self, size: int) -> tuple[HeldOut, Split]:
        twin = self.bundles[TWIN]
        dataset = load_dataset(self._data, twin.preprocessing.at(size), cache=self._cache).in_order_of(twin.labels)
        held = hold_out(dataset.train, by=twin.held_out_by)
        if held.digest != twin.splits.get("digest"):
            raise LcclError(f"{self._data} is not what {TWIN} was trained on: its held-out images differ")
        return held, dataset.test

    def measured(self, candidate: Candidate, part: str) -> Measurement:
        """What it comes to on ``choose`` or ``test``."""
        key = candidate, part
        if key not in self._measured:
            split: Split = getattr(self.parts(candidate.size), part)
            engine = self.engine(candidate.network, candidate.size)
            self._measured[key] = measure(engine, split, candidate.setting)
        return self._measured[key]

    def position(self, candidate: Candidate, part: str) -> Position:
        """Its work as a share of the plain twin's MACs, and what it got right."""
        measured = self.measured(candidate, part)
        shape = self.engine(candidate.network, candidate.size).shape
        macs = measured.gated_macs(shape) if candidate.macs is None else candidate.macs
        return Position(macs / self.twin_macs, measured.right)

    def positions(self, candidates: Iterable[Candidate], part: str) -> dict[Candidate, Position]:
        """Each one's position, those of one size after the other."""
        ordered = sorted(candidates, key=lambda candidate: -candidate.size)
        return {candidate: self.position(candidate, part) for candidate in ordered}


def load_bundles(folder: Path, names: Sequence[str]) -> tuple[dict[str, Bundle], list[str]]:
    """Those bundles that are there, by name, and the names of the others.

    Raises:
        LcclError: there is no plain twin.

    """
    there = {name: lccl.load(folder / name) for name in names if (folder / name / DESCRIPTION).is_file()}
    if TWIN not in there:
        raise LcclError(f"{folder} lacks {TWIN}, the plain twin that everything is compared with")
    return there, [name for name in names if name not in there]


def front(positions: dict[Candidate, Position]) -> list[Candidate]:
    """The best of them at every cost, from the least work on.

    None is dearer than a better one, and none lies below the line between two others, as requests may be shared out
    between those.
    """
    best: list[tuple[float, float, Candidate]] = []
    for candidate, position in sorted(positions.items(), key=lambda item: (item[1].work, -item[1].right.mean())):
        accuracy = float(position.right.mean())
        if best and accuracy <= best[-1][1]:
            continue
        while len(best) > 1 and _below(best[-2], best[-1], (position.work, accuracy)):
            best.pop()
        best.append((position.work, accuracy, candidate))
    return [candidate for _, _, candidate in best]


def _below(
    left: tuple[float, float, Candidate], middle: tuple[float, float, Candidate], right: tuple[float, float]
) -> bool:
    """Whether the middle one does not lie above the line between its neighbours."""
    share = (middle[0] - left[0]) / (right[0] - left[0])
    return middle[1] <= left[1] + share * (right[1] - left[1])
