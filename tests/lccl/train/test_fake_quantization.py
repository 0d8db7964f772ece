"""Fake quantisation computes nearly what the int8 engine does, and lets gradients through."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lccl.data import hold_out, load_dataset
from lccl.engines.reference import ReferenceEngine
from lccl.errors import LcclError, QuantisationError
from lccl.networks import Architecture, build
from lccl.networks.inputs import normalise
from lccl.networks.lowering import lower
from lccl.plan.run import RunOptions, Setting
from lccl.preprocessing import Preprocessing
from lccl.quantization.parameters import Quantisation
from lccl.quantization.plan import quantise, round_weights
from lccl.train.fake_quantization import FakeQuantised
from lccl.train.loop import train
from lccl.train.recipe import Recipe
from tests.lccl.networks import called, layers_of
from tests.lccl.train import photographs

KINDS = [
    Architecture("resnet20"),
    Architecture("resnet20", "pre", placement="bef-bef"),
    Architecture("resnet20", "post", "grouped:4"),
    Architecture("resnet164"),
]
SHORT = Recipe(epochs=1, batch=16, lr=1e-3, first_lr=1e-3, quantize=True)


@pytest.fixture(scope="module", params=KINDS, ids=called)
def network(request, gated_network, draw_images):
    pixels, layers = draw_images(8), layers_of(request.param)
    return gated_network(request.param, pixels, np.zeros((8, layers))).float().requires_grad_(True)


@pytest.fixture
def fake(network, square, draw_images):
    fake = FakeQuantised(network, square(32).statistics)
    fake.range(draw_images(8))
    return fake


def layers(network):
    return len(network.skip_convs)


def test_it_computes_nearly_what_the_int8_engine_does(network, fake, square, draw_images):
    pixels = draw_images(8)
    plan = lower(network, square(32))
    scales = {name: float(np.float32(scale)) for name, (scale, _) in fake.scales.items()}
    engine = ReferenceEngine(quantise(plan, Quantisation(scales, round_weights(plan))), precision="int8")
    setting = Setting((0.0,) * layers(network))
    integers = engine.run(pixels, RunOptions.of([setting] * 8)).logits
    floats = ReferenceEngine(plan).run(pixels, RunOptions.of([setting] * 8)).logits
    with torch.no_grad():
        images = normalise(pixels, square(32).statistics)
        own = fake(images, torch.zeros(8, layers(network))).logits.numpy()
    assert np.abs(own - integers).mean() < 0.5 * np.abs(floats - integers).mean()


def test_gradients_reach_every_weight_and_the_network_stays_as_it_was(network, fake, square, draw_images):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    output = fake(normalise(draw_images(4), square(32).statistics), torch.zeros(4, layers(network)))
    network.zero_grad()
    output.logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert any(float(parameter.grad.abs().sum()) > 0 for parameter in network.parameters())
    assert set(network.state_dict()) == set(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_split_convolutions_are_refused(square):
    with pytest.raises(QuantisationError, match="SPConv"):
        FakeQuantised(build(Architecture("resnet20", split="1/2")), square(32).statistics)


def test_training_quantised_goes_on_from_weights_and_is_recorded(toy_data, tmp_path, random_network):
    start = random_network(Architecture("resnet20", classes=3))
    network, record = train(
        Architecture("resnet20", classes=3), toy_data(32), SHORT, tmp_path,
        device=torch.device("cpu"), compile_network=False, report=lambda *_: None, start=start,
    )  # fmt: skip
    assert record.recipe["quantize"] is True
    moved = network.state_dict()["blocks.0.conv1.conv.weight"] - start.state_dict()["blocks.0.conv1.conv.weight"]
    assert 0 < moved.abs().max() < 0.1
    with pytest.raises(LcclError, match="another recipe"):
        train(
            Architecture("resnet20", classes=3), toy_data(32), replace(SHORT, quantize=False), tmp_path,
            device=torch.device("cpu"), compile_network=False, report=lambda *_: None, start=start,
        )  # fmt: skip


def test_photographs_are_ranged_over_all_classes_at_the_size_that_is_served(tmp_path, random_network, monkeypatch):
    folder, ranged, set_ranges = photographs.write(tmp_path / "data", 10), [], FakeQuantised.range
    data = hold_out(load_dataset(folder, Preprocessing(40, 40, (0.5,) * 3, (0.5,) * 3, scaled=True)).train)
    recipe = replace(SHORT, batch=8, augmentation="crops", sizes="32,40", average=0.5)

    def ranging(fake, images):
        ranged.append(images)
        set_ranges(fake, images)

    monkeypatch.setattr("lccl.train.loop.RANGED_IMAGES", 3)
    monkeypatch.setattr(FakeQuantised, "range", ranging)
    network, _ = train(
        Architecture("resnet20", classes=3), data, recipe, tmp_path / "run",
        device=torch.device("cpu"), compile_network=False, report=lambda *_: None,
        start=random_network(Architecture("resnet20", classes=3)),
    )  # fmt: skip
    (images,) = ranged
    assert images.shape == (3, 40, 40, 3)
    assert [int(image.mean(axis=(0, 1)).argmax()) for image in images] == [2, 1, 0]  # blue, green, red
    assert all(bool(value.isfinite().all()) for value in network.state_dict().values())


def test_compiling_what_is_quantised_is_refused(toy_data, tmp_path):
    with pytest.raises(LcclError, match="leave out --compile or --quantize"):
        train(
            Architecture("resnet20", classes=3), toy_data(32), SHORT, tmp_path,
            device=torch.device("cpu"), compile_network=True, report=lambda *_: None,
        )  # fmt: skip
