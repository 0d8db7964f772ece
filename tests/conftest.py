"""Fixtures for all tests: small models with random weights, pictures drawn here, and a served instance."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from lccl.bundle import Bundle, save
from lccl.gates import Gate
from lccl.networks import Architecture, ResNet, build
from lccl.operating_points import Interval, OperatingPoint, OperatingPointTable
from lccl.preprocessing import Preprocessing

torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None)  # machines differ, and timings gate nothing
settings.load_profile("untimed")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data" / "cifar10-jpeg.tar.xz"
SHIPPED_MODELS = Path(__file__).parents[1] / "models"


def random_network(architecture: Architecture, seed: int = 0) -> ResNet:
    """A network in evaluation mode whose normalisations are far from the identity.

    Their statistics are those of noise and the gates vary little: gates multiply, and values that fit no
    statistics grow without bounds.
    """
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


def make_table(layers: int, ratios: tuple[float, ...] = (0.1, 0.25, 0.4, 0.6)) -> OperatingPointTable:
    """A table whose thresholds and losses grow with the skip ratio; not measured on anything."""
    points = []
    for number, ratio in enumerate(ratios):
        accuracy, drop = 0.9 - 0.02 * number**2, 2.0 * number**2
        points.append(
            OperatingPoint(
                name="exact" if not number else f"p{100 * ratio:02.0f}",
                thresholds=(0.1 * number,) * layers,
                norm_set=0,
                skip_ratio=ratio,
                gated_macs=4e7 * (1 - ratio),
                accuracy=accuracy,
                accuracy_interval=Interval(accuracy - 0.01, accuracy + 0.01),
                drop=drop,
                drop_interval=Interval(drop - 0.5, drop + 0.5),
                drop_bound=drop + 0.4,
            )
        )
    return OperatingPointTable(tuple(points), 5000)


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
        training={},
    )


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
def picture() -> Callable[..., bytes]:
    """Draws a picture and encodes it: ``picture("PNG", mode="RGB", size=(40, 30), seed=0)``."""

    def draw(kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (40, 30), seed: int = 0) -> bytes:
        width, height = size
        random = np.random.default_rng(seed)
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
        out = io.BytesIO()
        image.save(out, kind)
        return out.getvalue()

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
