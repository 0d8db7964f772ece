"""What there is to train, the published figures that it is held against, and the result files of what was trained."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import results
from lccl.errors import LcclError

# As in the paper: no threshold takes part in training, so there is no way to sparser points to look for; and gates
# begin half open.
RECIPE: dict[str, Any] = {
    "batch": 128, "lr": 0.1, "first_lr": 0.01, "warm_up": 0.25, "momentum": 0.9, "weight_decay": 1e-4,
    "exact_share": 1.0, "skip_top": 0.0, "allocation": "common", "gate_scale": 1.0, "gate_shift": 0.0,
}  # fmt: skip
OPEN = {"open": 0.1, "quarter": 0.25}  # gates that begin as 1 ± so much

RESULTS = results.FOLDER / "paper"

RETRAINED: dict[str, Any] = {"lr": 0.02, "first_lr": 0.02, "warm_up": 0.0}  # of a network that was pruned


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set's name in words, its number of classes, and the side of its images in pixels."""

    title: str
    classes: int
    size: int


DATA = {
    "cifar10": DataSet("CIFAR-10", 10, 32),
    "cifar100": DataSet("CIFAR-100", 100, 32),
    "imagenet": DataSet("ImageNet", 1000, 224),
}


@dataclass(frozen=True, slots=True)
class Run:
    """A network to train.

    Attributes:
        network: fields of an ``Architecture`` without its classes, which follow from the data.
        data: a key of ``DATA``.
        recipe: fields of a ``Recipe`` in place of those of ``RECIPE`` or beyond them.
        rival: a key of ``RIVALS``, or "".

    """

    name: str
    network: Mapping[str, Any]
    data: str = "cifar10"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    rival: str = ""

    @property
    def twin(self) -> Run:
        """The network to compare with, neither gated nor split, which all of that name, form and data set share."""
        name, form = self.network["name"], self.network["form"]
        return Run(f"{_prefix(self.data)}{name}-{form}-plain", {"name": name, "form": form, "gate": "none"}, self.data)


@dataclass(frozen=True, slots=True)
class Published:
    """Figures of a paper: MACs of one image, the others in percent or percentage points; None where it has none.

    ``drop`` is the top-1 drop against the plain network, ``zeros`` the share of zero cells in the paper's words.
    """

    macs: float | None = None
    plain_error: float | None = None
    error: float | None = None
    drop: float | None = None
    speed_up: float | None = None
    zeros: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table; several lines may show the same run."""

    label: str
    run: str
    published: Published = Published()


@dataclass(frozen=True, slots=True)
class Table:
    """One of a paper's tables; it shows each row at its largest budget, or at every one."""

    title: str
    rows: tuple[Row, ...]
    every_budget: bool = False


@dataclass(frozen=True, slots=True)
class Preset:
    """Rows that belong on one kind of machine, with the seeds and epochs to train them for."""

    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    epochs: int


def find(name: str) -> Run:
    """The run of that name.

    Raises:
        LcclError: there is none.

    """
    if name not in RUNS:
        raise LcclError(f"no row {name!r}: use {', '.join(RUNS)}")
    return RUNS[name]


def with_twins(runs: Iterable[Run]) -> list[Run]:
    """The runs, each after its plain twin, none twice."""
    return list({each.name: each for run in runs for each in (run.twin, run)}.values())


def _prefix(data: str) -> str:
    return "" if data == "cifar10" else f"{data}-"


def _shared(network: str, form: str = "pre", data: str = "cifar10", suffix: str = "") -> Run:
    return Run(f"{_prefix(data)}{network}{suffix}", {"name": network, "form": form, "gate": "shared"}, data)


def _split(split: str, gate: str = "none") -> Run:
    name = f"resnet20-spconv-{split.replace('/', '-')}" + ("" if gate == "none" else f"-{gate}")
    return Run(name, {"name": "resnet20", "form": "post", "gate": gate, "split": split})


def _rival(name: str, form: str, recipe: Mapping[str, Any] | None = None) -> Run:
    network = {"name": "resnet20", "form": form, "gate": "none"}
    return Run(f"resnet20-{name}", network, recipe=recipe or {}, rival=name)


def _runs() -> dict[str, Run]:
    """The released code's blocks are pre-activation ones; so are these, where nothing else is said."""
    base = {"name": "resnet20", "form": "pre", "gate": "shared"}
    placements = ("aft-bef", "bef-bef", "bef-aft")
    runs = [
        *(Run(f"{name}-{gate}", {**base, "name": name, "gate": gate})
          for name in ("resnet20", "resnet32", "resnet44") for gate in ("shared", "pointwise")),
        *(Run(f"resnet20-pre-{placement}", {**base, "placement": placement}) for placement in placements),
        Run("resnet20-kind-conv-relu", {**base, "gate_norm": False}),
        Run("resnet20-kind-regularised", {**base, "gate_norm": False}, recipe={"gate_l1": 0.1}),
        Run("resnet20-grouped", {**base, "gate": "grouped:4"}),
        _shared("resnet20", "post", suffix="-post-shared"),
        *(Run(f"resnet20-{name}", base, recipe={"gate_scale": scale, "gate_shift": 1.0})
          for name, scale in OPEN.items()),
        *(_shared(name, suffix="-shared") for name in ("resnet110", "resnet164")),
        *(_shared(f"wrn-{size}") for size in ("22-8", "28-2", "40-1", "40-2", "40-4", "52-1")),
        _shared("resnet164", data="cifar100", suffix="-shared"),
        *(_shared(f"wrn-{size}", data="cifar100") for size in ("16-4", "22-8", "40-1", "40-2", "40-4", "52-1")),
        *(_shared(name, "post", "imagenet", "-shared") for name in ("resnet18", "resnet34")),
        _split("1/2"), _split("1/4"), _split("1/2", "shared"),
        *(_rival(name, "post", RETRAINED) for name in ("pfec-24", "pfec-35")),
        _rival("bwn", "post"), _rival("xnor", "pre"),
    ]  # fmt: skip
    return {run.name: run for run in runs} | {run.twin.name: run.twin for run in runs}


RUNS = _runs()

TABLES = (
    Table("Pointwise and shared gates, CIFAR-10", (
        Row("ResNet-20, pointwise", "resnet20-pointwise", Published(3.2e7, error=8.57, speed_up=20.3)),
        Row("ResNet-20, shared", "resnet20-shared", Published(2.6e7, error=8.32, speed_up=34.9)),
        Row("ResNet-32, pointwise", "resnet32-pointwise", Published(4.7e7, error=9.26, speed_up=31.2)),
        Row("ResNet-32, shared", "resnet32-shared", Published(4.9e7, error=7.44, speed_up=28.1)),
        Row("ResNet-44, pointwise", "resnet44-pointwise", Published(6.3e7, error=8.57, speed_up=34.8)),
        Row("ResNet-44, shared", "resnet44-shared", Published(6.5e7, error=7.29, speed_up=32.5)),
    )),
    Table("How gates begin, CIFAR-10, ResNet-20 with shared gates", (
        Row("0 ± 1, half open, as all other rows", "resnet20-shared", Published(error=8.32, speed_up=34.9)),
        Row("1 ± 0.1", "resnet20-open"),
        Row("1 ± 0.25", "resnet20-quarter"),
    ), every_budget=True),
    Table("Where the gates read, CIFAR-10, ResNet-20 with shared gates", (
        Row("Aft-Aft", "resnet20-shared", Published(error=8.32, speed_up=34.9)),
        Row("Aft-Bef", "resnet20-pre-aft-bef", Published(error=8.71, speed_up=24.1)),
        Row("Bef-Bef", "resnet20-pre-bef-bef", Published(error=11.62, speed_up=39.8)),
        Row("Bef-Aft", "resnet20-pre-bef-aft", Published(error=12.85, speed_up=55.4)),
    )),
    Table("Kinds of collaborative layer, CIFAR-10, ResNet-20 with shared gates", (
        Row("conv + ReLU", "resnet20-kind-conv-relu", Published(zeros="< 10, stable")),
        Row("conv + regularisation + ReLU", "resnet20-kind-regularised", Published(zeros="5 – 70, unstable")),
        Row("conv + BN + ReLU", "resnet20-shared", Published(zeros="≈ 30, stable")),
    )),
    Table("Deeper and wider networks, CIFAR-10, shared gates", (
        Row("ResNet-110", "resnet110-shared", Published(plain_error=6.37, error=6.56, speed_up=34.21)),
        Row("ResNet-164", "resnet164-shared", Published(plain_error=5.46, error=5.91, speed_up=27.40)),
        Row("WRN-22-8", "wrn-22-8", Published(plain_error=4.38, error=4.90, speed_up=51.32)),
        Row("WRN-28-2", "wrn-28-2", Published(plain_error=5.73, error=5.81, speed_up=21.40)),
        Row("WRN-40-1", "wrn-40-1", Published(plain_error=6.85, error=7.65, speed_up=39.36)),
        Row("WRN-40-2", "wrn-40-2", Published(plain_error=5.33, error=5.98, speed_up=31.01)),
        Row("WRN-40-4", "wrn-40-4", Published(plain_error=4.97, error=5.95, speed_up=54.06)),
        Row("WRN-52-1", "wrn-52-1", Published(plain_error=6.83, error=6.99, speed_up=41.90)),
    )),
    Table("CIFAR-100, shared gates", (
        Row("ResNet-164", "cifar100-resnet164-shared", Published(plain_error=24.33, error=24.74, speed_up=21.30)),
        Row("WRN-16-4", "cifar100-wrn-16-4", Published(plain_error=24.53, error=24.83, speed_up=15.19)),
        Row("WRN-22-8", "cifar100-wrn-22-8", Published(plain_error=21.22, error=21.30, speed_up=14.42)),
        Row("WRN-40-1", "cifar100-wrn-40-1", Published(plain_error=30.89, error=31.32, speed_up=36.28)),
        Row("WRN-40-2", "cifar100-wrn-40-2", Published(plain_error=26.04, error=26.91, speed_up=45.61)),
        Row("WRN-40-4", "cifar100-wrn-40-4", Published(plain_error=22.89, error=24.10, speed_up=34.27)),
        Row("WRN-52-1", "cifar100-wrn-52-1", Published(plain_error=29.88, error=29.55, speed_up=22.96)),
    )),
    Table("ImageNet, shared gates", (
        Row("ResNet-18", "imagenet-resnet18-shared", Published(1.2e9, drop=3.65, speed_up=34.6)),
        Row("ResNet-34", "imagenet-resnet34-shared", Published(2.7e9, drop=0.43, speed_up=24.8)),
    )),
    Table("Split convolutions, CIFAR-10", (
        Row("ResNet-20", "resnet20-post-plain", Published(4.162e7, error=8.00)),
        Row("ResNet-20, SPConv 1/2", "resnet20-spconv-1-2", Published(1.791e7, plain_error=8.00, error=7.77)),
        Row("ResNet-20, SPConv 1/4", "resnet20-spconv-1-4", Published(1.289e7, plain_error=8.00, error=8.85)),
        Row("ResNet-20, SPConv 1/2 and shared gates", "resnet20-spconv-1-2-shared"),
    )),
    Table("Rivals that the talk names, CIFAR-10, ResNet-20 (published: ImageNet, PFEC ResNet-34, others ResNet-18)", (
        Row("LCCL, shared", "resnet20-shared", Published(drop=3.65, speed_up=34.6)),
        Row("PFEC, a quarter saved", "resnet20-pfec-24", Published(drop=1.06, speed_up=24.2)),
        Row("PFEC, as much as LCCL is said to save", "resnet20-pfec-35"),
        Row("SPConv 1/2", "resnet20-spconv-1-2"),
        Row("BWN", "resnet20-bwn", Published(drop=8.5, speed_up=50)),
        Row("XNOR-Net", "resnet20-xnor", Published(drop=18.1, speed_up=98.3)),
    )),
    Table("Not in the paper, CIFAR-10", (
        Row("ResNet-20, four groups of channels", "resnet20-grouped"),
        Row("ResNet-20, shared, post-activation", "resnet20-post-shared"),
    )),
)  # fmt: skip

ROWS = [row for table in TABLES for row in table.rows]

PRESETS = {
    "cpu": Preset(
        ("resnet20-shared", "resnet20-spconv-1-2", "resnet20-pre-aft-bef", "resnet20-pre-bef-bef",
         "resnet20-pre-bef-aft", "resnet20-kind-conv-relu", "resnet20-kind-regularised", "resnet20-pfec-24",
         "resnet20-pfec-35", "resnet20-bwn", "resnet20-xnor", "resnet20-pointwise", "resnet20-post-shared",
         "resnet20-grouped", "resnet20-spconv-1-4", "resnet20-spconv-1-2-shared", "resnet20-open"),
        (0,), 40,
    ),
    "gpu": Preset(
        (*(f"{name}-{gate}" for name in ("resnet20", "resnet32", "resnet44") for gate in ("shared", "pointwise")),
         "wrn-28-2"),
        (0, 1, 2), 164,
    ),
}  # fmt: skip


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

    @property
    def words(self) -> str:
        """As tables show it: epochs × images."""
        return f"{self.epochs} × {self.images:,}"

    @property
    def size(self) -> tuple[float, int]:
        """What a larger budget has more of: images seen, then epochs."""
        return self.epochs * (math.inf if self.images is None else self.images), self.epochs


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
