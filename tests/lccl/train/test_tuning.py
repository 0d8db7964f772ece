"""Fine-tuning: other classes get a fresh classifier; gates stay, and training follows the curve that was there."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lccl.bundle import format as bundles
from lccl.data import load_dataset
from lccl.errors import LcclError
from lccl.networks import Architecture
from lccl.preprocessing import Preprocessing
from lccl.train.export import has_other_classes, train_bundle
from lccl.train.loop import make_optimiser
from lccl.train.recipe import Recipe, tuned
from lccl.train.tuning import curve_of, with_classes
from tests.lccl.train import photographs

RESNET20 = Architecture("resnet20", classes=4)
RECIPE = tuned(Recipe(epochs=1, batch=8, lr=0.01, augmentation="crops"))


@pytest.fixture
def start(random_bundle, make_table):
    return replace(random_bundle(RESNET20), table=make_table(18), version="7", digest="start")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = photographs.write(tmp_path_factory.mktemp("photographs"), 10)
    (folder / "train/red/broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    return load_dataset(folder, Preprocessing(32, 32, (0.5, 0.5, 0.4), (0.25, 0.2, 0.3)))


def train(start, dataset, folder, recipe=RECIPE, architecture=RESNET20):
    return train_bundle(
        architecture, dataset, recipe, folder,
        device=torch.device("cpu"), compile_network=False, report=lambda *_: None, start=start,
        preprocessing=start.preprocessing,
    )  # fmt: skip


def test_other_classes_are_learned_from_a_bundle(start, dataset, tmp_path):
    assert has_other_classes(start, dataset)
    bundle = train(start, dataset, tmp_path / "run")
    assert bundle.labels == photographs.COLOURS
    assert bundle.architecture == replace(RESNET20, classes=3)
    assert bundle.preprocessing == start.preprocessing
    assert (bundle.splits["by"], bundle.splits["choose"]) == ("files", 3)
    assert bundle.training.earlier.digest == "start"
    assert bundle.training.data.skipped[0].startswith("train/red/broken.jpg (")
    bundles.save(bundle, tmp_path / "saved")
    assert bundles.load(tmp_path / "saved").training.data.skipped == bundle.training.data.skipped
    before, after = (each.network.state_dict() for each in (start, bundle))
    gate = next(name for name in before if ".gate.conv" in name)
    assert not torch.equal(before[gate], after[gate])
    assert torch.allclose(before[gate], after[gate], atol=0.05)


def test_a_fresh_classifier_has_as_many_outputs_and_repeats_by_seed(start):
    first, again, other = (with_classes(start, 3, seed) for seed in (1, 1, 2))
    assert first.classifier.weight.shape == (3, 64)
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert torch.equal(first.stem_conv.weight, start.network.stem_conv.weight)
    assert start.network.classifier.weight.shape == (4, 64)


def test_only_the_classifier_learns_at_the_whole_rate(start):
    network = with_classes(start, 3, 0)
    rates = {
        id(parameter): group["rate"]
        for group in make_optimiser(network, RECIPE).param_groups
        for parameter in group["params"]
    }
    assert all(rates[id(p)] == (1 if "classifier" in name else 0.1) for name, p in network.named_parameters())
    assert {group["rate"] for group in make_optimiser(network, Recipe()).param_groups} == {1.0}


def test_the_curve_holds_the_shares_that_the_thresholds_close(start, dataset):
    choose = dataset.train.first(8)
    ratios, shares = curve_of(start, start.preprocessing, choose)
    assert ratios.tolist() == pytest.approx([0.1, 0.25, 0.4, 0.6])
    assert not shares[0].any()
    assert (np.diff(shares.numpy(), axis=0) >= 0).all()
    with torch.no_grad():
        from lccl.networks.inputs import normalise

        gates = start.network(normalise(choose.images, start.preprocessing.statistics)).gates
    closed = [float((gate <= 0.1 * 2).float().mean()) for gate in gates]
    assert shares[2].tolist() == pytest.approx(closed, abs=1e-3)


def test_a_bundle_with_exact_alone_has_no_curve(start, dataset, make_table):
    assert curve_of(replace(start, table=make_table(18, (0.1,))), start.preprocessing, dataset.train) is None


def test_another_network_is_refused(start, dataset, tmp_path):
    for other in (Architecture("resnet32", classes=4), replace(RESNET20, gate="pointwise"), RESNET20.plain_twin):
        with pytest.raises(LcclError, match="cannot begin from the weights of another network"):
            train(start, dataset, tmp_path, architecture=other)


def test_the_same_classes_of_other_images_are_refused(start, dataset, tmp_path):
    same = replace(start, labels=("red", "green", "blue"), architecture=replace(RESNET20, classes=3))
    assert not has_other_classes(same, dataset)
    with pytest.raises(LcclError, match="was trained on other images"):
        train(same, dataset, tmp_path)
