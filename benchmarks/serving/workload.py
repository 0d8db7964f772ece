"""What is served and asked: bundles for this service, plain twins for the others, and images as JPEG."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import lccl
from benchmarks import results
from benchmarks.faults.cases import encode
from benchmarks.models import data_of, sparsest_as_good
from benchmarks.serving import twins
from benchmarks.serving.peers.model import MAX_PIXELS
from benchmarks.serving.twins import DENSE, Answers
from lccl.bench.images import Images, choose, noise_images, read_images
from lccl.bench.workload import Workload, find_model, make_workload, plain_twin
from lccl.bundle import format as bundles
from lccl.bundle.format import Bundle
from lccl.data import hold_out, load_dataset
from lccl.data.splits import Split
from lccl.errors import LcclError
from lccl.measurement import exact_setting, measure
from lccl.networks import ResNet
from lccl.operating_points import EXACT, Interval, OperatingPoint, OperatingPointTable
from lccl.plan.run import RunOptions, Setting
from lccl.preprocessing import Preprocessing
from lccl.request import QualityRequest, resolve

BUILD = results.HOME / "build" / "serving"
SHIPPED, SHIPPED_LARGE = (results.HOME / "models" / name for name in ("resnet20-cifar10", "resnet18-imagenette"))
LARGE_TWIN = results.HOME / "benchmarks" / "twins" / SHIPPED_LARGE.name
MANY, FEW = 64, 16
CALIBRATED = 300  # images that the peers' tools see
QUALITY = 90


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """One network as everyone serves it.

    Attributes:
        name: of the network, and of its images' size.
        models: a folder of bundles that holds just the network with gates.
        twin: a folder with the plain twin, as peers want it.
        images: JPEG files.
        source: in words where the images come from.
        answers: the plain twin's, by :func:`benchmarks.serving.twins.key`.
        variants: of the twin: the runtimes people use, each in the precisions that are to be had.
        absent: which others there would be, and why they are not.
        qualities: what this service is asked for: in tables' words, queries that are mixed evenly.
        own_accuracy: of the network with gates on test images, by the same words; nothing without such images.

    """

    name: str
    models: Path
    twin: Path
    images: tuple[bytes, ...]
    source: str
    answers: Mapping[str, Answers]
    variants: tuple[tuple[str, str], ...]
    absent: Mapping[str, str]
    qualities: Mapping[str, Sequence[str]]
    own_accuracy: Mapping[str, float]


def serve_all(
    names: Sequence[str], data: Path | None, twin: Path | None = None, photographs: Path | None = None
) -> list[Served]:
    """The networks of these names, made now or found in ``BUILD``.

    Args:
        data: a data set for the small network; without one images are drawn.
        twin: the bundle of the small network's trained plain twin; without one its gates are left out, which takes as
            long and is not how anybody would classify.
        photographs: a data set for the large network; without one images are drawn, as those of 12 megapixels are
            anyway: small ones scaled up so far would be decoded faster than a camera's.

    """
    for name in names:
        given = {"data": str(data), "twin": str(twin), "photographs": str(photographs)}
        if _given(name) != given:
            small(data, twin) if name == SMALL else large(name, photographs if name == LARGE else None)
            (BUILD / name / "given.json").write_text(json.dumps(given), encoding="utf-8")
    return [_read(BUILD / name) for name in names]


def small(data: Path | None, twin: Path | None) -> None:
    """Make the shipped ResNet-20, asked with images of CIFAR's size."""
    bundle = bundles.load(SHIPPED)
    plain = plain_twin(bundle.architecture, bundle.network) if twin is None else bundles.load(twin).network
    folder = emptied(BUILD / SMALL)
    (folder / "models").mkdir()
    (folder / "models" / SHIPPED.name).symlink_to(SHIPPED)
    if data is None:
        drawn = noise_images(MANY, bundle.preprocessing.size)
        _save(folder, plain, bundle, drawn, drawn.images)
        return
    dataset = read_images(data, bundle.preprocessing).in_order_of(bundle.labels)
    images = choose(dataset, data.name, bundle.preprocessing, MANY)
    calibration = hold_out(dataset.train, by=bundle.held_out_by).choose
    calibration = calibration.first(min(CALIBRATED, len(calibration)))
    test = dataset.test if len(dataset.test) else None
    table = bundle.in_precision(lccl.compile(bundle, engine="cpu").precision).table
    half = {HALF_ROW: resolve(table, QualityRequest(sparsity=HALF)).wanted.setting}
    own = {} if test is None else _own_accuracy(bundle, test, half)
    _save(folder, plain, bundle, images, calibration.images[:], None if twin is None else test, own)


def large(name: str, data: Path | None = None) -> None:
    """Make a ResNet-18 and its trained twin, asked with photographs: the shipped one, or one with fresh weights."""
    height, width, count, times = PHOTOGRAPHS[name]
    folder = emptied(BUILD / name)
    if not SHIPPED_LARGE.is_dir():
        model = find_model(LARGE)
        model = replace(model, preprocessing=replace(model.preprocessing, scaled=True))
        images = _drawn(count, height, width, times)
        inputs = _inputs(_jpegs(images.images), model.preprocessing)
        workload = make_workload(model, Images(images.source, inputs), count, (HALF,))
        bundle = fresh_bundle(workload)
        bundles.save(bundle, folder / "models" / LARGE)
        _save(folder, workload.twin, bundle, images, inputs)
        return
    bundle, twin = bundles.load(SHIPPED_LARGE), bundles.load(LARGE_TWIN).network
    (folder / "models").mkdir()
    (folder / "models" / SHIPPED_LARGE.name).symlink_to(SHIPPED_LARGE)
    point = sparsest_as_good(bundle)
    if data is None:
        images = _drawn(count, height, width, times)
        inputs = _inputs(_jpegs(images.images), bundle.preprocessing)
        _save(folder, twin, bundle, images, inputs, qualities=at_point(point))
        return
    dataset = data_of(bundle, data)
    original = bundle.preprocessing.at(ORIGINAL)
    squares = choose(load_dataset(data, original), data.name, original, count).images
    images = Images(f"{data.name}, stretched to {width} × {height} pixels", _stretched(squares, height, width))
    calibration = hold_out(dataset.train, by=bundle.held_out_by).choose
    calibration = calibration.first(min(CALIBRATED, len(calibration)))
    own = _own_accuracy(bundle, dataset.test, {f"LCCL {point.name}": point.setting})
    _save(folder, twin, bundle, images, calibration.images[:], dataset.test, own, at_point(point))


def _drawn(count: int, height: int, width: int, times: int) -> Images:
    drawn = noise_images(count, width // times)
    pixels = [np.asarray(Image.fromarray(image).resize((width, width)))[:height] for image in drawn.images]
    return Images(f"{drawn.source}, {width} × {height} pixels", np.stack(pixels))


def _stretched(images: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    return np.stack([np.asarray(Image.fromarray(image).resize((width, height))) for image in images])


SMALL, LARGE, HUGE = NETWORKS = "resnet20", "resnet18", "resnet18-12-megapixels"
# Height, width, how many, and times that they are scaled up, so that large files are about as long as a telephone's.
PHOTOGRAPHS = {LARGE: (375, 500, FEW, 1), HUGE: (3000, 4000, 4, 2)}
ORIGINAL = 224  # pixels of the data set's photographs, which are squashed to squares
HALF = 0.5
EXACT_ROW, MIXED_ROW = "LCCL exact", "LCCL mixed"
HALF_ROW = f"LCCL sparsity {HALF}"
USUAL = {
    EXACT_ROW: [""],
    HALF_ROW: [f"sparsity={HALF}"],
    MIXED_ROW: [f"sparsity={ratio}" for ratio in (0.36, HALF, 0.64)],
}


def at_point(point: OperatingPoint) -> dict[str, list[str]]:
    """What is asked for: exact, a point, and targets around it."""
    around = [f"sparsity={point.skip_ratio * share:.3f}" for share in (0.75, 1, 1.25)]
    return {EXACT_ROW: [""], f"LCCL {point.name}": [f"operating_point={point.name}"], MIXED_ROW: around}


def _own_accuracy(bundle: Bundle, test: Split, others: Mapping[str, Setting]) -> dict[str, float]:
    """What the service's engine reaches on test images, in the precision that it takes by itself."""
    engine = lccl.compile(bundle, engine="cpu")
    settings = {EXACT_ROW: exact_setting(engine), **others}
    return {name: measure(engine, test, setting).accuracy for name, setting in settings.items()}


def emptied(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _save(
    folder: Path, twin: ResNet, bundle: Bundle, images: Images, calibration: NDArray[np.uint8],
    test: Split | None = None, own: Mapping[str, float] | None = None, qualities: Mapping[str, list[str]] = USUAL,
) -> None:  # fmt: skip
    """Write the twin, its answers and the images beside the models that a folder holds already."""
    files, twin_folder = _jpegs(images.images), emptied(folder / "twin")
    absent = twins.write(twin_folder, twin, bundle, calibration)
    answers = twins.answer(twin_folder, twin, bundle, _inputs(files, bundle.preprocessing), test)
    if folder.name == HUGE:
        whole = _inputs(files, replace(bundle.preprocessing, scaled=False))
        found_whole = twins.answer(twin_folder, twin, bundle, whole, None)
        answers |= {twins.whole(name): found for name, found in found_whole.items()}
    for name, found in answers.items():
        np.save(folder / f"{name}.npy", found.probabilities)
    for number, file in enumerate(files):
        (folder / f"{number:03}.jpg").write_bytes(file)
    made = {
        "source": images.source,
        "accuracy": {name: found.accuracy for name, found in answers.items()},
        "absent": absent,
        "qualities": qualities,
        "own_accuracy": own or {},
    }
    (folder / "made.json").write_text(json.dumps(made), encoding="utf-8")


def _given(name: str) -> object:
    """What an earlier run made the network from; None if there was none."""
    file = BUILD / name / "given.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _read(folder: Path) -> Served:
    files = tuple(file.read_bytes() for file in sorted(folder.glob("*.jpg")))
    made = json.loads((folder / "made.json").read_text(encoding="utf-8"))
    answers = {name: Answers(np.load(folder / f"{name}.npy"), accuracy) for name, accuracy in made["accuracy"].items()}
    return Served(
        name=folder.name,
        models=folder / "models",
        twin=folder / "twin",
        images=files,
        source=made["source"],
        answers=answers,
        variants=tuple(variant for variant in DENSE if twins.key(*variant) in answers),
        absent=made["absent"],
        qualities=made["qualities"],
        own_accuracy=made["own_accuracy"],
    )


def _inputs(files: Sequence[bytes], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    return np.stack([preprocessing.decode(file, MAX_PIXELS) for file in files])


def _jpegs(images: NDArray[np.uint8]) -> tuple[bytes, ...]:
    return tuple(encode(Image.fromarray(image), "JPEG", quality=QUALITY) for image in images)


AROUND = {"p35": 0.35, "p65": 0.65}
WITHIN = 0.002
FURTHEST, STEPS = 0.5, 30
UNKNOWN = Interval(0.0, 1.0)


def fresh_bundle(workload: Workload) -> Bundle:
    """Offer exact, ``HALF`` with the workload's thresholds, and points around it with all of these shifted alike."""
    measure = Measure(workload)
    half = next(named.setting for named in workload.settings if named.wanted == HALF)
    shifted = {name: measure.shifted(half, ratio) for name, ratio in AROUND.items()}
    settings = {EXACT: exact_setting(measure.engine), "p35": shifted["p35"], "p50": half, "p65": shifted["p65"]}
    points = tuple(measure.point(name, setting) for name, setting in settings.items())
    return Bundle(
        architecture=workload.architecture,
        network=workload.network,
        labels=tuple(f"class {index}" for index in range(workload.architecture.classes)),
        preprocessing=workload.preprocessing,
        table=OperatingPointTable(points, len(workload.images.images)),
        splits={},
    )


class Measure:
    """What thresholds come to on the workload's images, by the native engine."""

    def __init__(self, workload: Workload) -> None:
        self._images = workload.images.images
        self.engine = lccl.compile(workload.network, engine="cpu", preprocessing=workload.preprocessing)

    def shifted(self, setting: Setting, wanted: float) -> Setting:
        """Thresholds all higher or lower by the same, so that the mean skip ratio is the wanted one.

        Raises:
            LcclError: no shift does that.

        """
        low, high = -FURTHEST, FURTHEST
        for _ in range(STEPS):
            middle = (low + high) / 2
            moved = Setting(tuple(threshold + middle for threshold in setting.thresholds))
            reached = self.point("", moved).skip_ratio
            if abs(reached - wanted) <= WITHIN:
                return moved
            low, high = (middle, high) if reached < wanted else (low, middle)
        raise LcclError(f"no thresholds skip {wanted:g}")

    def point(self, name: str, setting: Setting) -> OperatingPoint:
        """An operating point whose skip ratio and MACs are measured."""
        kept = self.engine.run(self._images, RunOptions.of([setting] * len(self._images))).kept
        return OperatingPoint(
            name=name,
            setting=setting,
            skip_ratio=float(self.engine.shape.skip_ratio(kept).mean()),
            gated_macs=float(self.engine.shape.gated(kept).mean()),
            accuracy=0.0,
            accuracy_interval=UNKNOWN,
            drop=0.0,
            drop_interval=UNKNOWN,
            drop_bound=100.0,
        )
