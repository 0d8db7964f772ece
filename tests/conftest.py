"""Fixtures for all tests: small models with random weights, images drawn here, and a served instance."""

from __future__ import annotations

import copy
import io
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it once, when whatever test comes first imports it
os.environ.setdefault("LCCL_PROCESSES", "1")  # tests of several say so: each takes two seconds to start

from lccl.bundle.format import Bundle, save
from lccl.bundle.self_test import draw as draw_smooth
from lccl.engines.cpu.cores import usable_cores
from lccl.networks import Architecture, ResNet, build
from lccl.networks.gates import Gate
from lccl.networks.sidenet import SideNetSpec
from lccl.operating_points import Interval, OperatingPoint, OperatingPointTable
from lccl.plan.run import Setting
from lccl.preprocessing import Preprocessing

torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None)  # machines differ, and timings gate nothing
settings.load_profile("untimed")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data" / "cifar10-jpeg.tar.xz"
SHIPPED_MODELS = Path(__file__).parents[1] / "models"
needs_unseen_images = pytest.mark.skipif(
    not SHARED_DATA.is_file(), reason="the labelled test images are not beside the project"
)


def every_unseen_image(nth: int) -> list[tuple[bytes, str]]:
    """Every nth of the 8,000 test images, which come class by class: files as they are stored, and their classes."""
    chosen = []
    with tarfile.open(SHARED_DATA) as archive:
        members = (one for one in archive if one.isfile() and one.name.startswith("test/"))
        for number, member in enumerate(members):
            stored = archive.extractfile(member) if number % nth == 0 else None
            if stored is not None:
                chosen.append((stored.read(), member.name.split("/")[1]))
    return chosen


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes more than there are processors: tests of the service wait now and then."""
    return usable_cores() + 2


def pytest_configure(config: pytest.Config) -> None:
    """Give each process of several one processor: threads of engines that share processors wait for each other."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def random_network(architecture: Architecture, seed: int = 0) -> ResNet:
    """A network in evaluation mode whose normalisations are far from the identity.

    Their statistics are those of noise and the gates vary little: gates multiply, and values that fit no
    statistics grow without bounds.
    """
    network = copy.deepcopy(_settled_network(architecture, seed))
    torch.manual_seed(seed)  # what a test draws next is the same whatever ran before
    return network


@lru_cache(maxsize=4)
def _settled_network(architecture: Architecture, seed: int) -> ResNet:
    torch.manual_seed(seed)
    network = build(architecture)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            module.bias.data += 0.3 * torch.randn_like(module.bias)
            module.momentum = None
    for module in network.modules():
        if isinstance(module, Gate):
            if module.norm is None:
                module.conv.weight.data *= 0.1
                continue
            module.norm.weight.data *= 0.1
            module.norm.bias.data.uniform_(0.2, 0.4)
    with torch.no_grad():
        network.train()(4 * torch.rand(16, 3, 32, 32) - 2)
    return network.eval().requires_grad_(False)


def make_point(name: str, loss: int, ratio: float, threshold: float, layers: int, sure: list[float]) -> OperatingPoint:
    accuracy, drop = 0.9 - 0.02 * loss**2, 2.0 * loss**2
    return OperatingPoint(
        name=name,
        setting=Setting((threshold,) * layers, tuple(sure)),
        skip_ratio=ratio,
        gated_macs=4e7 * (1 - ratio),
        accuracy=accuracy,
        accuracy_interval=Interval(accuracy - 0.01, accuracy + 0.01),
        drop=drop,
        drop_interval=Interval(drop - 0.5, drop + 0.5),
        drop_bound=drop + 0.4,
    )


def make_table(layers: int, ratios: tuple[float, ...] = (0.1, 0.25, 0.4, 0.6), exits: int = 0) -> OperatingPointTable:
    """A table whose thresholds and losses grow with the skip ratio; not measured on anything."""
    points = [
        make_point(
            "exact" if not number else f"p{100 * ratio:02.0f}", number, ratio, 0.1 * number, layers,
            [round(1 - 0.1 * number, 1)] * exits,
        )
        for number, ratio in enumerate(ratios)
    ]  # fmt: skip
    exit_points = [
        make_point(f"exit {sure}", number, ratio, 0.0, layers, [sure] * exits)
        for number, (sure, ratio) in enumerate(((0.9, 0.2), (0.7, 0.3), (0.5, 0.5)), 1)
    ]
    return OperatingPointTable(tuple(points), 5000, tuple(exit_points) if exits else ())


def _encoded(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def random_bundle(architecture: Architecture | None = None) -> Bundle:
    architecture = architecture or Architecture("resnet20")
    network = random_network(architecture)
    return Bundle(
        architecture=architecture,
        network=network,
        labels=tuple(f"class{number}" for number in range(architecture.classes)),
        preprocessing=Preprocessing(32, 32, (0.5, 0.5, 0.4), (0.25, 0.2, 0.3)),
        table=make_table(len(network.skip_convs)) if network.skip_convs else make_table(0, (0.0,)),
        splits={"choose": 0, "measure": 0, "digest": ""},
    )


def early_bundle() -> Bundle:
    """A random ResNet-20 with two early exits, by whose random SideNets images leave more or less surely."""
    bundle = random_bundle()
    torch.manual_seed(1)
    bundle.network.add_sidenets([SideNetSpec(2, 1, 16), SideNetSpec(5, 2, 16)])
    for side, size in zip(bundle.network.sidenets, (11, 25), strict=True):
        side.classifier.weight.data *= size
    bundle.network.eval().requires_grad_(False)
    table = make_table(len(bundle.network.skip_convs), exits=2)
    leaving = {
        point.name: [0.1 * number, 0.05 * number, 1 - 0.15 * number] for number, point in enumerate(table.points)
    }
    return replace(bundle, table=table, calibration={"images_by_exit": leaving})


@pytest.fixture
def bundle() -> Bundle:
    return random_bundle()


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two random models, ``small`` and ``twin``."""
    folder = tmp_path_factory.mktemp("models")
    save(random_bundle(), folder / "small")
    twin = random_bundle(Architecture("resnet20", gate="none"))
    save(twin, folder / "twin")
    return folder


@pytest.fixture(scope="session")
def early_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one random model that has early exits, ``early``."""
    folder = tmp_path_factory.mktemp("early")
    save(early_bundle(), folder / "early")
    return folder


@pytest.fixture(scope="session")
def smooth_images() -> list[bytes]:
    """Twelve encoded images of noise over large shapes: to a SideNet's means noise alone would all look the same."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3))
    pixels = (0.75 * draw_smooth(3, 12, 32, 32) + 0.25 * noise).astype(np.uint8)
    return [_encoded(Image.fromarray(one), "PNG") for one in pixels]


@pytest.fixture(scope="session")
def draw_image() -> Callable[..., bytes]:
    """Draws an image and encodes it: ``image("PNG", mode="RGB", size=(40, 30), seed=0)``."""

    def draw(kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (40, 30), seed: int = 0) -> bytes:
        width, height = size
        random = np.random.default_rng(seed)
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
        return _encoded(image, kind)

    return draw


@pytest.fixture(scope="session", name="random_network")
def random_network_maker() -> Callable[..., ResNet]:
    return random_network


@pytest.fixture(scope="session", name="make_table")
def table_maker() -> Callable[..., OperatingPointTable]:
    return make_table


@pytest.fixture(scope="session", name="random_bundle")
def bundle_maker() -> Callable[..., Bundle]:
    return random_bundle


@pytest.fixture(scope="session")
def moto():
    """Host and port of a server that speaks S3."""
    pytest.importorskip("moto.server", reason="moto is of the extra test")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()
