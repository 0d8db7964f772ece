"""Networks with fresh weights skip what is asked for, bundles what their tables say."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from lccl.bench.images import noise_images
from lccl.bench.untrained import choose_thresholds
from lccl.bench.workload import (
    DENSE,
    FLOAT,
    OPEN,
    Model,
    find_model,
    images_needed,
    make_workload,
    normalised,
)
from lccl.bundle import format as bundles
from lccl.compiler import compile_network
from lccl.errors import LcclError
from lccl.networks import Architecture
from lccl.networks.lowering import lower
from lccl.plan.geometry import shape_of
from lccl.plan.run import RunOptions
from tests.lccl.bench.conftest import SIXTEEN


@pytest.mark.parametrize(
    ("name", "form", "gate"),
    [
        ("resnet20", "pre", "shared"), ("resnet20", "post", "pointwise"), ("resnet164", None, None),
    ],
)  # fmt: skip
def test_every_layer_skips_what_is_asked_for(name, form, gate):
    made = make_workload(find_model(name, form, gate), SIXTEEN, 1, (0.25, 0.7))
    shape = shape_of(made.plan)
    assert [setting.wanted for setting in made.settings] == [None, 0.25, 0.7]
    assert not shape.layer_skip_ratios(made.settings[0].kept).any()
    for setting in made.settings[1:]:
        np.testing.assert_allclose(shape.layer_skip_ratios(setting.kept).mean(0), setting.wanted, atol=0.05)
        assert min(setting.setting.thresholds) > 0


def test_a_twin_that_was_trained_as_such_takes_part(workload):
    trained = copy.deepcopy(workload.twin)
    for weights in trained.parameters():
        weights.mul_(0.9)
    made = make_workload(replace(find_model("resnet20"), twin=trained), SIXTEEN, 4, (0.25,))
    assert made.twin is trained
    assert not np.allclose(made.logits[DENSE], workload.logits[DENSE])
    np.testing.assert_array_equal(made.logits[OPEN], workload.logits[OPEN])


def test_in_int8_every_layer_skips_what_is_asked_for_too(int8_workload):
    shape = shape_of(int8_workload.plan)
    assert int8_workload.plan.quantised
    assert int8_workload.dense_plan.quantised
    np.testing.assert_allclose(shape.layer_skip_ratios(int8_workload.settings[1].kept).mean(0), 0.5, atol=0.05)
    near = np.abs(int8_workload.logits[DENSE] - int8_workload.logits[FLOAT]).max()
    assert 0 < near < 0.3 * np.abs(int8_workload.logits[FLOAT]).max()


def test_the_plain_twin_has_the_same_weights_and_no_gates(workload):
    state, twin = workload.network.state_dict(), workload.twin.state_dict()
    assert not workload.twin.skip_convs
    assert set(twin) == {name for name in state if ".gate." not in name}
    assert all(torch.equal(value, state[name]) for name, value in twin.items())


def test_its_logits_are_the_modules(workload):
    images = torch.from_numpy(normalised(workload.images.images, workload.preprocessing))
    np.testing.assert_allclose(workload.logits[DENSE], workload.twin(images).logits, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(workload.logits[OPEN], workload.network(images).logits, rtol=1e-3, atol=1e-3)


def changed(workload, change):
    """The plan of the workload's network with a change made to a copy."""
    network = copy.deepcopy(workload.network)
    change(network)
    return lower(network, workload.preprocessing)


def test_gates_that_are_zero_anyway_allow_no_smaller_ratio(workload):
    def close(network):
        for module in network.skip_convs.values():
            module.gate.norm.bias.fill_(-10)

    with pytest.raises(LcclError, match=r"skips 1.000 of its cells where 0.25 is asked for: 1.000 of its gates"):
        choose_thresholds(changed(workload, close), SIXTEEN.images, 0.25)


def test_values_that_grow_are_refused(workload):
    plan = changed(workload, lambda network: network.blocks[3].conv1.norm.weight.fill_(1e5))
    with pytest.raises(LcclError, match=r"in blocks.3.conv1: not a network"):
        choose_thresholds(plan, SIXTEEN.images, 0.25)


def test_thresholds_skip_the_share_on_other_images_too(workload):
    engine = compile_network(workload.network, engine="cpu", preprocessing=workload.preprocessing, threads=1)
    others = noise_images(16, 32, seed=1).images
    kept = engine.run(others, RunOptions.of([workload.settings[2].setting] * 16)).kept
    assert engine.shape.skip_ratio(kept).mean() == pytest.approx(0.7, abs=0.1)


def test_a_bundles_thresholds_come_from_its_table(random_bundle):
    bundle = random_bundle()
    model = Model("random", bundle.architecture, bundle.network, bundle.preprocessing, bundle.table)
    made = make_workload(model, SIXTEEN, 1, (0.4,))
    assert made.settings[1].setting == next(point for point in bundle.table.points if point.name == "p40").setting
    assert [setting.wanted for setting in make_workload(model, SIXTEEN, 1, None).settings] == [None, 0.35, 0.5]
    with pytest.raises(LcclError, match="out of reach"):
        make_workload(model, SIXTEEN, 1, (0.7,))


def test_exit_confidences_come_from_its_table_too(early_workload):
    opened, between, at_a_point = (each.setting for each in early_workload.settings)
    assert opened.exit_confidence == ()
    assert between.exit_confidence == pytest.approx((0.72, 0.8))
    assert at_a_point.exit_confidence == (0.66, 0.7)
    # The first exit stands behind the third block.
    left = [int((setting.kept[:, 6:].sum(1) == 0).sum()) for setting in early_workload.settings]
    assert 0 == left[0] < left[1] < left[2] < 16


def test_all_images_may_leave_early(early_folder):
    model = find_model(str(early_folder / "early"))
    next(iter(model.network.sidenets)).classifier.weight.mul_(1e6)
    made = make_workload(model, SIXTEEN, 4, (0.4,))
    assert made.settings[1].kept[:, :6].any(1).all()
    assert not made.settings[1].kept[:, 6:].any()


def test_the_plain_twin_has_no_exits(early_workload):
    assert len(early_workload.network.sidenets) == 2
    assert len(early_workload.twin.sidenets) == 0


@pytest.mark.parametrize("batch", [1, 3, 32, 100])
def test_images_make_whole_batches(batch):
    count = images_needed(find_model("resnet20"), batch)
    assert count % batch == 0
    assert count >= max(64, 2 * batch)


def test_split_convolutions_are_not_measured(random_bundle, tmp_path):
    bundles.save(random_bundle(Architecture("resnet20", split="1/2")), tmp_path)
    with pytest.raises(LcclError, match="split convolutions, which the cpu engine, measured here, does not run"):
        find_model(str(tmp_path))
