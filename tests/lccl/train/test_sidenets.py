"""Fitting SideNets: the network stays as it is, what is stated is what unseen images show, calibration uses them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lccl.bundle import self_test
from lccl.bundle.format import load, save
from lccl.bundle.model_card import write_card
from lccl.calibration.choice import calibrate, calibrate_along
from lccl.calibration.search import ThresholdCurve
from lccl.calibration.table import EXIT_CONFIDENCES
from lccl.compiler import compile_network
from lccl.errors import ArchitectureError, BundleError, DataError, EngineError, LcclError
from lccl.measurement import measure
from lccl.networks import Architecture, build
from lccl.networks.sidenet import SideNetSpec
from lccl.plan.run import Setting
from lccl.train.reliability import expected_calibration_error, softmax
from lccl.train.sidenets import SideNetRecipe, _first_look, _still_true, fit_sidenets, usual_blocks
from tests.lccl.settings import uniform

SHARED, PLAIN = Architecture("resnet20", classes=3), Architecture("resnet20", gate="none", classes=3)
LEAVES, STAYS = 0.0, 1.0


@pytest.fixture(scope="module", params=[SHARED, PLAIN], ids=str)
def fitted(request, leaving_bundle):
    return leaving_bundle(request.param)


@pytest.fixture(scope="module")
def gated(leaving_bundle):
    return leaving_bundle(SHARED, epochs=12)


def engine_for(bundle):
    return compile_network(bundle, engine="reference")


def test_the_network_itself_stays_as_it_was(fitted, random_bundle):
    before = random_bundle(fitted.architecture).network.state_dict()
    after = fitted.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(name.startswith("sidenets.") for name in set(after) - set(before))


def test_what_is_stated_of_an_exit_is_what_unseen_images_show(fitted, toy_data):
    engine, held, record = engine_for(fitted), toy_data().measure, fitted.training.sidenets
    nothing = (0.0,) * len(engine.plan.layers)
    for number, stated in enumerate(record.answers):
        confidences = tuple(LEAVES if number == other else STAYS for other in range(2))
        found = measure(engine, held, Setting(nothing, confidences))
        assert (found.exit_index == number).all()
        assert found.accuracy == stated.accuracy
        logits = engine.run(held.images, uniform(len(held), nothing, confidences)).logits
        confidence = softmax(logits).max(1)
        error = expected_calibration_error(confidence, found.right)
        assert error == pytest.approx(stated.calibration_error, abs=0.02)
        assert stated.risk_coverage[-1][1] == pytest.approx(1 - stated.accuracy)


def test_clear_images_are_learned(gated):
    """Three classes told by colour: more than guessing after a few steps."""
    assert all(one.accuracy > 0.6 for one in gated.training.sidenets.exits)


def test_fitting_twice_gives_the_same(leaving_bundle):
    first, second = (leaving_bundle(SHARED, epochs=1).network.state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_no_image_leaves_early_before_calibration(fitted):
    for point in fitted.table.points:
        assert point.setting.exit_confidence == (1.0, 1.0)


def test_exits_set_by_hand_are_measured(fitted, toy_data):
    engine = engine_for(fitted)
    assert [point.setting.exit_confidence for point in fitted.table.exit_points] == [
        (one, one) for one in EXIT_CONFIDENCES
    ]
    for point in fitted.table.exit_points:
        found = measure(engine, toy_data().measure, point.setting)
        assert point.gated_macs == found.gated_macs(engine.shape)
        assert point.skip_ratio == found.skip_ratio(engine.shape)


def test_a_bundle_keeps_its_sidenets(fitted, tmp_path, draw_images):
    save(fitted, tmp_path)
    loaded = load(tmp_path)
    assert loaded.network.sidenets.specs == fitted.network.sidenets.specs
    assert loaded.table == fitted.table
    options = uniform(4, [0.0] * len(fitted.network.skip_convs), [0.4, 0.4])
    before, after = (engine_for(one).run(draw_images(4), options) for one in (fitted, loaded))
    assert np.array_equal(before.logits, after.logits)
    assert np.array_equal(before.exit_index, after.exit_index)


def test_the_self_test_sends_its_images_out_by_every_exit(gated):
    recorded = replace(gated, self_test=self_test.record(gated, engine_for(gated)))
    assert {"exact", "exit 0", "exit 1"} <= set(recorded.self_test["logits"])
    self_test.check(engine_for(recorded), recorded)
    damaged = replace(recorded, network=build_like(recorded))
    list(damaged.network.sidenets)[1].classifier.weight.mul_(1.1)
    with pytest.raises(BundleError, match="exit 1 differ"):
        self_test.check(engine_for(damaged), damaged)


def build_like(bundle):
    network = build(bundle.architecture)
    network.add_sidenets(bundle.network.sidenets.specs)
    network.load_state_dict(bundle.network.state_dict())
    return network.eval().requires_grad_(False)


def test_the_card_tells_what_every_exit_is_worth(gated, tmp_path):
    write_card(gated, tmp_path)
    text = (tmp_path / "README.md").read_text()
    for number, one in enumerate(gated.training.sidenets.exits):
        head = f"| exit {number}, after block {one.after} |"
        row = next(line for line in text.splitlines() if line.startswith(head))
        assert f"| {100 * one.accuracy:.2f} |" in row
        assert row.endswith(f"| {100 * one.risk_coverage[-1][1]:.1f} |")
    assert "| the network's end |" in text
    assert "| 0.95 |" in text


# calibration


def curve_of(rows):
    return ThresholdCurve(tuple(Setting(tuple(row[:18]), tuple(row[18:])) for row in rows), np.zeros(len(rows)))


@pytest.fixture(scope="module")
def along(gated, toy_data):
    """An engine, held-out images that it answers as their labels say, and the bundle calibrated along three points."""
    rows = [[0.0] * 18 + [1.0, 1.0], [0.0] * 17 + [0.01, 0.5, 1.0], [0.0] * 17 + [0.01, 0.3, 0.0]]
    engine = compile_network(gated)
    data = as_answered_by(engine, toy_data(held=16), [1.0, 0.0])
    return engine, data, calibrate_along(curve_of(rows), gated, engine, data)


def test_points_on_a_curve_hold_thresholds_and_exits(along):
    engine, data, done = along
    points, shares = done.table.points, done.calibration["images_by_exit"]
    assert points[0].setting.exit_confidence == (1.0, 1.0)
    assert len(points) > 1
    assert shares["exact"] == [0, 0, 1]
    assert all(sum(shares[point.name]) == pytest.approx(1, abs=1e-3) for point in points)
    last = points[-1]
    assert min(last.setting.exit_confidence) < 1
    assert last.setting.thresholds[-1] > 0
    found = measure(engine, data.measure, last.setting)
    assert found.skip_ratio(engine.shape) == last.skip_ratio
    assert found.gated_macs(engine.shape) == last.gated_macs
    assert [point.setting.exit_confidence for point in done.table.exit_points] == [
        (one, one) for one in EXIT_CONFIDENCES
    ]


def as_answered_by(engine, data, confidences):
    """The held-out images with what the network answers as their labels: no way to it can lose much."""

    def relabelled(split):
        options = uniform(len(split), [0.0] * len(engine.plan.layers), confidences)
        return replace(split, labels=engine.run(split.images, options).logits.argmax(1))

    return replace(data, choose=relabelled(data.choose), measure=relabelled(data.measure))


def test_calibration_searches_gates_and_exits(gated, toy_data, monkeypatch):
    searched = []

    def find(engine, candidates, *_, **__):
        searched.extend(candidates)
        return curve_of([[0.0] * 18 + [1.0, 1.0]])

    monkeypatch.setattr("lccl.calibration.choice.search_thresholds", find)
    calibrate(gated, compile_network(gated), toy_data(), weighed=6)
    assert len(searched) == 18 + 2
    assert all((np.diff(layer) > 0).all() for layer in searched[:18])
    assert all((np.diff(exit_) < 0).all() and exit_[-1] == 0 for exit_ in searched[18:])


def test_fitting_again_keeps_no_figure_that_exits_made(along, toy_data):
    """Points that were measured with the old exits say nothing of the new ones."""
    _, _, calibrated = along
    assert len(calibrated.table.points) > 1
    again = fit(calibrated, toy_data())
    assert [point.name for point in again.table.points] == ["exact"]
    assert again.table.exact.setting.exit_confidence == (1.0,)
    assert again.calibration == {}


def test_points_are_charged_for_the_sidenets_beside_them(gated, toy_data):
    """The random bundle's own figures were made up; those stated now are measured."""
    engine = compile_network(gated)
    for point in gated.table.points:
        found = measure(engine, toy_data().measure, point.setting)
        assert point.gated_macs == pytest.approx(found.gated_macs(engine.shape), rel=1e-3)


# what is refused


def fit(bundle, data, after=2):
    return fit_sidenets(bundle, [SideNetSpec(after, 2, 8)], data, SideNetRecipe(), lambda *_: None, "reference")


def test_a_run_of_ten_steps_is_no_exception(random_bundle, toy_data):
    """A tenth of it is a single step, in which a rate cannot rise."""
    bundle, data = replace(random_bundle(PLAIN), splits={"digest": "toy"}), toy_data(16, held=8)
    assert len(data.train) <= 256
    fitted = fit_sidenets(
        bundle, [SideNetSpec(2, 2, 8)], data, SideNetRecipe(epochs=10, batch=256), lambda *_: None, "reference"
    )
    assert len(fitted.training.sidenets.exits) == 1


def test_what_a_sidenet_reads_is_centred_on_images_of_all_classes(random_bundle, toy_data, monkeypatch):
    """Data sets come class by class; the mean of the first class is not that of the rest."""
    looked_at = []

    def look(network, preprocessing, split):
        looked_at.append(set(split.labels.tolist()))
        return _first_look(network, preprocessing, split)

    data = toy_data(40)
    order = np.argsort(data.train.labels, kind="stable")
    monkeypatch.setattr("lccl.train.sidenets._first_look", look)
    monkeypatch.setattr("lccl.train.sidenets.FIRST_LOOK", len(order) // 2)
    fit(replace(random_bundle(PLAIN), splits={"digest": "toy"}), replace(data, train=data.train.subset(order)))
    assert looked_at == [set(data.train.labels.tolist())]


def test_what_was_recorded_of_gates_stays_for_the_points_that_are_left(make_table):
    table = make_table(2)
    recorded = {point.name: [[0.1, 0.0]] * 2 for point in table.points} | {"gone": [[0.2, 0.0]] * 2}
    calibration = {"layers": ["a", "b"], "skip_ratio_mean_std": recorded, "images_by_exit": {"exact": [0, 1]}}
    left = {name: rows for name, rows in recorded.items() if name != "gone"}
    assert _still_true(calibration, table) == {"layers": ["a", "b"], "skip_ratio_mean_std": left}
    assert _still_true({}, table) == {}


def test_other_data_is_refused(random_bundle, toy_data):
    with pytest.raises(DataError, match="not the data"):
        fit(random_bundle(SHARED), toy_data())


def test_an_engine_that_is_not_there_is_refused_before_training(random_bundle, toy_data):
    def report(*_):
        raise AssertionError("it trained")

    bundle = replace(random_bundle(SHARED), splits={"digest": "toy"})
    with pytest.raises(EngineError, match="unknown engine"):
        fit_sidenets(bundle, [SideNetSpec(2, 2, 8)], toy_data(), SideNetRecipe(), report, "fast")


def test_no_blocks_are_refused(random_bundle, toy_data):
    with pytest.raises(LcclError, match="say after which ones"):
        fit_sidenets(
            replace(random_bundle(SHARED), splits={"digest": "toy"}), [], toy_data(), SideNetRecipe(), lambda *_: None
        )


def test_a_block_that_is_not_there_is_refused(random_bundle, toy_data):
    with pytest.raises(ArchitectureError, match="no block 9"):
        fit(replace(random_bundle(SHARED), splits={"digest": "toy"}), toy_data(), after=9)


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"batch": 1}, {"lr": 0.0}, {"lr": 2.0}])
def test_settings_that_cannot_train_are_refused(settings):
    with pytest.raises(LcclError):
        SideNetRecipe(**settings)


@pytest.mark.parametrize(
    ("name", "places"),
    [("resnet20", [2, 5, 6, 7]), ("resnet18", [1, 3, 5, 6]), ("resnet164", [17, 35, 41, 47]), ("wrn-16-4", [1, 3, 4])],
)
def test_usual_blocks_are_the_ends_of_stages_and_thirds_of_the_last(name, places):
    assert usual_blocks(build(Architecture(name, split="1/2"))) == places
    network = build(Architecture(name))
    assert usual_blocks(network) == places
    network.add_sidenets([SideNetSpec(place, 1, 4) for place in places])
