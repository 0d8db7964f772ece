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

from benchmarks import results
from benchmarks.faults.images import encode
from benchmarks.serving.fresh import HALF, fresh_bundle
from benchmarks.serving.twin import save_twin
from lccl.bench.baselines import FromPixels
from lccl.bench.images import Images, dataset_images, noise_images
from lccl.bench.workload import find_model, make_workload, plain_twin
from lccl.bundle import format as bundles
from lccl.bundle.format import Bundle
from lccl.networks import ResNet
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
    """Write the twin and the images beside the models that a folder holds already."""
    files, module = _jpegs(images.images), FromPixels(twin, bundle.preprocessing)
    save_twin(emptied(folder / "twin"), module, bundle)
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
