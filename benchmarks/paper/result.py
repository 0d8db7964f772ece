"""Result files, one per run, seed and budget: what a network got right on each test image, and what it cost."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lccl.errors import LcclError


@dataclass(frozen=True, slots=True)
class Budget:
    """What a network is trained on, and how long.

    Attributes:
        data: name of the data set's file or folder, without its ending.
        epochs: passes over the training images.
        images: training images, None for all of them.

    """

    data: str
    epochs: int
    images: int | None = None

    @property
    def name(self) -> str:
        """Of the folder that its results are in."""
        return f"{self.data}-{self.epochs}-epochs" + ("" if self.images is None else f"-{self.images}-images")


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One trained network on N test images.

    Attributes:
        budget: as in the file, with the number of training images told.
        images: digest of the test images.
        right: bool [N].
        zeros: share of the gated cells that are zero, weighted by MACs.
        macs: gated MACs of the whole network.
        speed_up: 1 − these / the MACs of the row's plain network.

    """

    run: str
    seed: int
    budget: Budget
    images: str
    right: NDArray[np.bool_]
    zeros: float
    macs: float
    speed_up: float

    @property
    def error(self) -> float:
        return 1 - float(self.right.mean())


def pack(right: NDArray[np.bool_]) -> str:
    """A bit per image, as base64."""
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def read_all(folder: Path) -> Iterator[Result]:
    """Every result in the budgets' folders of ``folder``.

    Raises:
        LcclError: a file is no result.

    """
    for file in sorted(folder.glob("*/*.json")):
        try:
            yield _read(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise LcclError(f"{file} is not a result of this benchmark: remove it, or train its row again") from error


def _read(value: dict[str, Any]) -> Result:
    test, budget = value["test"], value["budget"]
    packed = np.frombuffer(base64.b64decode(test["right"], validate=True), dtype=np.uint8)
    return Result(
        run=value["run"],
        seed=value["recipe"]["seed"],
        budget=Budget(budget["data"], budget["epochs"], budget["images"]),
        images=test["digest"],
        right=np.unpackbits(packed, count=test["images"]).astype(bool),
        zeros=value["zeros"],
        macs=value["gated_macs"],
        speed_up=1 - value["gated_macs"] / value["dense_macs"],
    )
