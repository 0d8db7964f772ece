"""A run of photographs resumes bit by bit, within an epoch too, and its averaged weights are what it gives."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lccl.data import hold_out, load_dataset
from lccl.errors import LcclError
from lccl.networks import Architecture, build
from lccl.preprocessing import Preprocessing
from lccl.train import loop
from lccl.train.recipe import Recipe, continued
from lccl.train.run import WeightAverage
from tests.lccl.train import photographs

HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
RESNET20 = Architecture("resnet20", classes=3)
RECIPE = continued(
    Recipe(epochs=2, batch=6, lr=0.02, augmentation="crops", smoothing=0.1, average=0.5, sizes="32:64", curve_images=2)
)


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = photographs.write(tmp_path_factory.mktemp("photographs"), 10)
    return hold_out(load_dataset(folder, Preprocessing(64, 64, *HALVES, scaled=True)).train)


def run(data, folder, recipe=RECIPE, stop_at=None, heard=None, **options):
    def report(kind, done, _of, _figures):
        if heard is not None:
            heard.append((kind, done))
        if (kind, done) == ("step", stop_at):
            raise StoppedError

    return loop.train(
        RESNET20, data, recipe, folder,
        device=torch.device("cpu"), compile_network=False, report=report, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return folder, *run(data, folder)


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def figures(record):
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in record.epochs]


def test_the_averaged_weights_are_watched_and_given(whole):
    folder, network, record = whole
    state = load_file(folder / "checkpoint.safetensors")
    assert torch.equal(network.classifier.weight, state["average.classifier.weight"])
    assert not torch.equal(network.classifier.weight, state["network.classifier.weight"])
    assert all(math.isfinite(value) for epoch in record.epochs for value in epoch.values())
    assert (record.data.size, record.data.fit) == (64, "crop")
    assert not network.training


@pytest.mark.parametrize("stop_at", [2, 3, 6])
def test_a_run_stopped_anywhere_resumes_bit_by_bit(whole, data, tmp_path, monkeypatch, stop_at):
    """It writes a checkpoint after every step here; 4 steps are an epoch."""
    monkeypatch.setattr(loop, "SAVED_EVERY_S", -1.0)
    with pytest.raises(StoppedError):
        run(data, tmp_path, stop_at=stop_at)
    steps = []
    monkeypatch.setattr(loop, "SAVED_EVERY_S", 600.0)
    again, record = loop.train(
        RESNET20, data, RECIPE, tmp_path,
        device=torch.device("cpu"), compile_network=False, report=lambda kind, done, *_: steps.append((kind, done)),
        workers=1,
    )  # fmt: skip
    assert steps[0] == ("step", stop_at)  # what was reported last had not been saved yet
    assert same(whole[1], again)
    assert figures(record) == figures(whole[2])


def test_the_moves_of_a_search_are_reported(data, tmp_path, random_network):
    heard = []
    run(data, tmp_path, replace(RECIPE, epochs=1), heard=heard, start=random_network(RESNET20))
    first = heard.index(("step", 1))
    assert first > 2
    assert heard[:first] == [("search", move) for move in range(1, first + 1)]


def test_a_position_within_an_epoch_is_gone_after_it(whole):
    with safe_open(whole[0] / "checkpoint.safetensors", "pt") as checkpoint:
        assert "position" not in checkpoint.metadata()
        assert json.loads(checkpoint.metadata()["record"])["recipe"]["sizes"] == "32:64"


def test_another_size_or_fit_in_the_same_folder_is_refused(whole, data, tmp_path):
    shutil.copytree(whole[0], tmp_path / "runs")
    images = data.train.images
    for change in ({"size": 72, "resize": 72}, {"fit": "stretch"}):
        other = type(images)(images.files, images.numbers, replace(images.preprocessing, **change))
        with pytest.raises(LcclError, match="checkpoint with another data"):
            run(replace(data, train=replace(data.train, images=other)), tmp_path / "runs", statistics=None)


def test_an_average_follows_slowly_and_starts_where_the_network_is():
    network = build(RESNET20)
    average = WeightAverage(network, steps=100)
    with torch.no_grad():
        network.classifier.weight.fill_(1)
        average.network.classifier.weight.fill_(0)
    average.update(network, done=10_000)
    assert average.network.classifier.weight.mean().item() == pytest.approx(0.01)
    average.update(network, done=0)
    assert average.network.classifier.weight.mean().item() == pytest.approx(1 - 0.99 * 0.1, abs=1e-4)
    for _ in range(500):
        average.update(network, done=10_000)
    assert average.network.classifier.weight.mean().item() == pytest.approx(1, abs=0.01)


def test_an_average_takes_statistics_and_counters_along():
    network = build(RESNET20)
    average = WeightAverage(network, steps=2)
    network.stem_norm.running_mean.fill_(4)
    network.stem_norm.num_batches_tracked.fill_(7)
    average.update(network, done=100)
    assert average.network.stem_norm.running_mean.mean() == 2
    assert average.network.stem_norm.num_batches_tracked == 7


@pytest.mark.parametrize(
    "recipe",
    [
        {"sizes": "32:64"}, {"grown": 0}, {"crop_area": 0}, {"crop_ratio": 0.5}, {"augmentation": "none"},
        {"smoothing": 1}, {"average": -1}, {"trunk_rate": 0},
    ],
)  # fmt: skip
def test_an_impossible_recipe_is_refused(recipe):
    with pytest.raises(LcclError):
        Recipe(**recipe)
