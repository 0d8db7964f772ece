"""What is served and asked: bundles for this service, plain twins for the others, and images as JPEG."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

import lccl
from benchmarks import results
from benchmarks.faults.cases import encode
from lccl.bench.images import Images, dataset_images, noise_images
from lccl.bench.twins import FromPixels, export_onnx
from lccl.bench.workload import Workload, find_model, make_workload, plain_twin
from lccl.bundle import format as bundles
from lccl.bundle.format import Bundle
from lccl.errors import LcclError
from lccl.measurement import exact_setting
from lccl.networks import ResNet
from lccl.operating_points import EXACT, Interval, OperatingPoint, OperatingPointTable
from lccl.plan.run import RunOptions, Setting
from lccl.preprocessing import Preprocessing

BUILD = results.HOME / "build" / "serving"
SHIPPED = results.HOME / "models" / "resnet20-cifar10"
MANY, FEW = 64, 16
QUALITY = 90


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """One network as everyone serves it.

    Attributes:
        name: of the network.
        models: a folder of bundles that holds just the network with gates.
        twin: a folder with the plain twin, as peers want it.
        images: JPEG files.
        source: in words where the images come from.
        expected: float32 [P, classes], the plain twin's probabilities for each image, by PyTorch.

    """

    name: str
    models: Path
    twin: Path
    images: tuple[bytes, ...]
    source: str
    expected: NDArray[np.float32]


def serve_all(names: Sequence[str], data: Path | None) -> list[Served]:
    """The networks of these names, made now or found in ``BUILD``; ``data`` is a data set, or images are drawn."""
    return [_found(name, data) or NETWORKS[name](data) for name in names]


def small(data: Path | None) -> Served:
    """The shipped ResNet-20, asked with images of CIFAR's size."""
    bundle = bundles.load(SHIPPED)
    size = bundle.preprocessing.size
    found = noise_images(MANY, size) if data is None else dataset_images(data, bundle.preprocessing, MANY)
    folder = emptied(BUILD / "resnet20")
    (folder / "models").mkdir()
    (folder / "models" / SHIPPED.name).symlink_to(SHIPPED)
    return _save(folder, plain_twin(bundle.architecture, bundle.network), bundle, found, data)


def large(data: Path | None) -> Served:
    """A ResNet-18 with fresh weights and thresholds, asked with drawn images of 500 × 375 pixels."""
    model, drawn = find_model("resnet18"), noise_images(FEW, 500)
    images = Images(f"{drawn.source}, 500 × 375 pixels", drawn.images[:, :375])
    inputs = _inputs(_jpegs(images.images), model.preprocessing)
    workload = make_workload(model, Images(images.source, inputs), FEW, (HALF,))
    bundle, folder = fresh_bundle(workload), emptied(BUILD / "resnet18")
    bundles.save(bundle, folder / "models" / "resnet18")
    return _save(folder, workload.twin, bundle, images, data)


NETWORKS: dict[str, Callable[[Path | None], Served]] = {"resnet20": small, "resnet18": large}


def emptied(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _save(folder: Path, twin: ResNet, bundle: Bundle, images: Images, data: Path | None) -> Served:
    """Write the twin and the images beside the models that a folder holds already.

    The twin is an ONNX file that starts from pixels, for batches of any size, its weights, and what describes them.
    """
    files, module = _jpegs(images.images), FromPixels(twin, bundle.preprocessing)
    twins, size = emptied(folder / "twin"), bundle.preprocessing.size
    export_onnx(module, torch.zeros((2, size, size, 3), dtype=torch.uint8), twins / "twin.onnx", any_batch=True)
    save_file({name: value.contiguous() for name, value in twin.state_dict().items()}, twins / "twin.safetensors")
    described = {
        "architecture": bundle.architecture.plain_twin.to_json(),
        "preprocessing": bundle.preprocessing.to_json(),
        "labels": list(bundle.labels),
    }
    (twins / "twin.json").write_text(json.dumps(described), encoding="utf-8")
    with torch.inference_mode():
        logits = module(torch.from_numpy(_inputs(files, bundle.preprocessing)))
    np.save(folder / "expected.npy", torch.softmax(logits, 1).numpy())
    for number, file in enumerate(files):
        (folder / f"{number:03}.jpg").write_bytes(file)
    (folder / "made.json").write_text(json.dumps({"source": images.source, "data": str(data)}), encoding="utf-8")
    return _read(folder, images.source)


def _found(name: str, data: Path | None) -> Served | None:
    """What an earlier run made with the same data; None if there is nothing."""
    file = BUILD / name / "made.json"
    if not file.exists():
        return None
    made = json.loads(file.read_text(encoding="utf-8"))
    return _read(file.parent, made["source"]) if made["data"] == str(data) else None


def _read(folder: Path, source: str) -> Served:
    files = tuple(file.read_bytes() for file in sorted(folder.glob("*.jpg")))
    return Served(folder.name, folder / "models", folder / "twin", files, source, np.load(folder / "expected.npy"))


def _inputs(files: Sequence[bytes], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    return np.stack([preprocessing.apply(Image.open(io.BytesIO(file))) for file in files])


def _jpegs(images: NDArray[np.uint8]) -> tuple[bytes, ...]:
    return tuple(encode(Image.fromarray(image), "JPEG", quality=QUALITY) for image in images)


HALF = 0.5
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
