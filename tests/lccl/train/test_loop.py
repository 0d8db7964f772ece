"""Training is repeatable bit by bit and resumes as if it had never stopped."""

import copy
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lccl.data import Dataset, HeldOut, Split
from lccl.errors import EngineError, LcclError
from lccl.networks import Architecture, NetworkOutput, build
from lccl.preprocessing import Preprocessing
from lccl.train import loop
from lccl.train.export import first_bundle, network_input
from lccl.train.fake_quantization import FakeQuantised
from lccl.train.loop import _first_weights, _loss, channel_statistics, make_optimiser, train
from lccl.train.recipe import Recipe, attached

SHORT = Recipe(epochs=3, batch=4, lr=0.05, seed=1)
RESNET20 = Architecture("resnet20", classes=3)


def run(data, folder, recipe=SHORT, architecture=RESNET20, report=lambda *_: None, **networks):
    return train(
        architecture, data, recipe, folder,
        device=torch.device("cpu"), compile_network=False, report=report, **networks,
    )  # fmt: skip


def weights(network):
    return network.state_dict()


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def untimed(record):
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in record.epochs]


# parts of the loop


def test_channel_statistics_are_those_of_all_pixels(toy_data):
    data = toy_data(20).train
    mean, std = channel_statistics(data)
    values = data.images.reshape(-1, 3) / 255
    assert mean == pytest.approx(values.mean(0), abs=1e-5)
    assert std == pytest.approx(values.std(0), abs=1e-5)


def test_a_constant_channel_has_a_deviation_that_can_be_divided_by():
    _, std = channel_statistics(Split(np.full((3, 4, 4, 3), 7, np.uint8), np.zeros(3, np.int64)))
    assert min(std) > 0


def test_gates_are_spared_weight_decay():
    network = build(RESNET20)
    groups = make_optimiser(network, SHORT).param_groups
    decayed = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert all(decayed[id(p)] == (0 if ".gate." in name else 5e-4) for name, p in network.named_parameters())


@pytest.mark.parametrize(("size", "resize"), [(32, 32), (224, 256)])
def test_how_images_reach_a_network(size, resize):
    assert (network_input(size).size, network_input(size).resize) == (size, resize)


# the loop


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data(22, held=4)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A whole run: its folder, network and record, and a copy of the folder after each epoch."""
    folder = tmp_path_factory.mktemp("runs") / "whole"

    def keep(kind, done, _of, _figures):
        if kind == "epoch":
            shutil.copytree(folder, folder.with_name(f"after_{done}"))

    network, record = run(data, folder, report=keep)
    return folder, network, record


def test_the_record_has_an_entry_per_epoch(trained, data):
    _, network, record = trained
    assert len(record.epochs) == 3
    assert all(math.isfinite(value) for epoch in record.epochs for value in epoch.values())
    assert {"loss", "accuracy", "watched_accuracy_0", "watched_skip_0.45", "seconds"} <= record.epochs[0].keys()
    assert record.data.train == 22
    assert record.data.held_out_digest == "toy"
    assert record.recipe["seed"] == 1
    assert not network.training


def test_training_reports_every_step_and_epoch(toy_data, tmp_path):
    heard, recipe = [], Recipe(epochs=2, batch=2, allocation="common")
    run(toy_data(5, held=1), tmp_path, recipe=recipe, report=lambda *report: heard.append(report[:3]))
    assert heard == [
        ("step", 1, 4), ("step", 2, 4), ("epoch", 1, 2), ("step", 3, 4), ("step", 4, 4), ("epoch", 2, 2)
    ]  # fmt: skip


def test_training_learns_to_tell_colours(toy_data, tmp_path):
    _, record = run(toy_data(40, held=4), tmp_path, recipe=Recipe(epochs=5, batch=8, lr=0.02, skip_top=0, seed=2))
    first, last = record.epochs[0], record.epochs[-1]
    assert last["loss"] < 0.6 * first["loss"]
    assert last["accuracy"] > 0.7 > first["accuracy"]


def test_the_same_seed_gives_the_same_network_bit_by_bit(trained, data, tmp_path):
    _, network, record = trained
    again, second = run(data, tmp_path)
    assert same(weights(network), weights(again))
    assert untimed(record) == untimed(second)


def test_another_seed_gives_another_network(trained, data, tmp_path):
    other, _ = run(data, tmp_path, recipe=Recipe(epochs=1, batch=4, lr=0.05, seed=2))
    assert not torch.equal(other.classifier.weight, trained[1].classifier.weight)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_by_bit(trained, data, tmp_path, epoch):
    folder, network, record = trained
    shutil.copytree(folder.with_name(f"after_{epoch}"), tmp_path / "resumed")
    steps = []
    again, second = run(data, tmp_path / "resumed", report=lambda kind, done, *_: steps.append((kind, done)))
    assert next(step for step in steps if step[0] != "search") == ("step", 5 * epoch + 1)
    assert same(weights(network), weights(again))
    assert untimed(record) == untimed(second)


def test_a_run_stopped_in_the_middle_of_an_epoch_starts_that_epoch_again(trained, data, tmp_path):
    def stop(kind, done, _of, _figures):
        if (kind, done) == ("step", 8):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, report=stop)
    again, _ = run(data, tmp_path)
    assert same(weights(trained[1]), weights(again))


def test_a_quantised_run_goes_on_within_an_epoch_with_the_scales_it_had(data, tmp_path, monkeypatch):
    recipe, ranged = Recipe(epochs=1, batch=4, lr=0.01, allocation="common", quantize=True), []

    def range_once(network, _images):
        network.scales = {"stem": (0.1 + len(ranged), 0)}  # the weights have moved: it would find others
        ranged.append(network.scales)

    def stop(kind, done, _of, _figures):
        if (kind, done) == ("step", 4):
            raise KeyboardInterrupt

    monkeypatch.setattr(FakeQuantised, "range", range_once)
    whole, _ = run(data, tmp_path / "whole", recipe=recipe)
    ranged.clear()
    monkeypatch.setattr(loop, "SAVED_EVERY_S", -1.0)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "stopped", recipe=recipe, report=stop)
    again, _ = run(data, tmp_path / "stopped", recipe=recipe)
    assert len(ranged) == 1
    assert same(weights(whole), weights(again))


def test_a_finished_run_is_not_trained_again(trained, data, tmp_path):
    folder, network, _ = trained
    shutil.copytree(folder, tmp_path / "copy")
    again, record = run(data, tmp_path / "copy", report=lambda *_: pytest.fail("trained"))
    assert same(weights(network), weights(again))
    assert len(record.epochs) == 3


def test_a_checkpoint_from_before_there_were_more_fields_goes_on(trained, data, tmp_path):
    folder, network, _ = trained
    shutil.copytree(folder, tmp_path / "older")
    file = tmp_path / "older" / "checkpoint.safetensors"
    with safe_open(file, "pt") as checkpoint:
        record = json.loads(checkpoint.metadata()["record"])
    for newer in ("placement", "gate_norm", "split"):
        del record["architecture"][newer]
    del record["recipe"]["skip_bottom"]
    save_file(load_file(file), file, metadata={"record": json.dumps(record)})
    again, _ = run(data, tmp_path / "older", report=lambda *_: pytest.fail("trained"))
    assert same(weights(network), weights(again))


def test_a_teacher_reads_images_as_it_was_trained_to(toy_data, tmp_path, random_network):
    seen = []
    recipe, teacher = Recipe(epochs=1, batch=8), random_network(RESNET20.plain_twin)
    teacher.register_forward_pre_hook(lambda _, inputs: seen.append(float(inputs[0].mean())))
    shifted = Preprocessing(32, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    run(toy_data(8, held=4), tmp_path / "own", recipe=recipe, teacher=teacher)
    run(toy_data(8, held=4), tmp_path / "other", recipe=recipe, teacher=teacher, teacher_input=shifted)
    own, other = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert not np.allclose(own, other, atol=0.05)
    run(toy_data(8, held=4), tmp_path / "alone", recipe=replace(recipe, distill=0.0), teacher=teacher)
    assert len(seen) == 2 * len(own)


def test_a_teacher_sees_images_of_its_own_size(toy_data, tmp_path, random_network):
    seen, own = [], Preprocessing(48, 48, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    teacher = random_network(RESNET20.plain_twin)
    teacher.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[1:])))
    run(toy_data(8, held=4), tmp_path, recipe=Recipe(epochs=1, batch=8), teacher=teacher, teacher_input=own)
    assert set(seen) == {(3, 48, 48)}


def test_the_curve_that_a_network_trains_along_may_close_layers_last(toy_data, tmp_path, random_network):
    recipe = Recipe(epochs=1, batch=8, path_from=0.0, curve_images=4, closing="last")
    run(toy_data(8, held=4), tmp_path, recipe=recipe, start=random_network(RESNET20))
    shares = load_file(tmp_path / "checkpoint.safetensors")["sampler.path_shares"]
    closed = (shares >= 1).sum(dim=1)
    assert (shares[closed == 0][-1] > 0.7).all()
    assert closed[-1] > 0


@pytest.mark.parametrize("there_is_bf16", [True, False])
def test_in_bf16_the_curve_is_searched_for_in_bf16_where_there_is_an_engine_for_it(
    toy_data, tmp_path, random_network, monkeypatch, there_is_bf16
):
    asked, compiled = [], loop.compile_engine

    def compile_engine(network, device, precision="auto", **given):
        asked.append(precision)
        if precision == "bf16" and not there_is_bf16:
            raise EngineError("no bf16 here")
        return compiled(network, device, "fp32", **given)

    monkeypatch.setattr(loop, "compile_engine", compile_engine)
    recipe = Recipe(epochs=1, batch=8, path_from=0.0, curve_images=4, precision="bf16")
    run(toy_data(8, held=4), tmp_path, recipe=recipe, start=random_network(RESNET20))
    assert asked == (["bf16"] if there_is_bf16 else ["bf16", "auto"])


def test_a_network_for_one_ratio_alone_learns_its_thresholds_without_exact_images(toy_data, tmp_path):
    recipe = Recipe(
        epochs=4, batch=8, lr=0.02, exact_share=0.0, skip_bottom=0.45, skip_top=0.45, skip_from=0.25, seed=2
    )
    _, record = run(toy_data(40, held=4), tmp_path, recipe=recipe)
    assert record.epochs[-1]["watched_skip_0.45"] == pytest.approx(0.45, abs=0.15)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"recipe": Recipe(epochs=3, batch=4, lr=0.1, seed=1)}, "recipe"),
        ({"recipe": Recipe(epochs=4, batch=4, lr=0.05, seed=1)}, "recipe"),
        ({"architecture": RESNET20.plain_twin}, "architecture"),
        ({"start": build(RESNET20)}, "start, teacher or classes"),
        ({"teacher": build(RESNET20)}, "start, teacher or classes"),
        ({"labels": ("dog", "zebra")}, "start, teacher or classes"),
        ({"fit": "stretch"}, "data"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(trained, data, changes, part):
    with pytest.raises(LcclError, match=f"checkpoint with another {part}"):
        run(data, trained[0], **changes)


def test_other_data_in_the_same_folder_is_refused(trained, toy_data):
    with pytest.raises(LcclError, match="checkpoint with another data"):
        run(toy_data(22, held=4, seed=5), trained[0])


def test_attached_gates_begin_close_to_one(random_network):
    plain = random_network(RESNET20.plain_twin)
    network = _first_weights(RESNET20, attached(Recipe()), plain).train()
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    for gate in network(images).gates:
        assert float(gate.mean().detach()) == pytest.approx(1, abs=0.01)
        assert float(gate.std().detach()) < 0.06


def test_the_plain_twin_trains(toy_data, tmp_path):
    network, record = run(
        toy_data(4, held=1), tmp_path, recipe=Recipe(epochs=1, batch=2), architecture=RESNET20.plain_twin
    )
    assert not network.skip_convs
    assert math.isfinite(record.epochs[0]["loss"])
    assert "watched_accuracy_0" in record.epochs[0]


def test_bfloat16_trains(toy_data, tmp_path):
    _, record = run(toy_data(4, held=1), tmp_path, recipe=Recipe(epochs=1, batch=4, precision="bf16"))
    assert math.isfinite(record.epochs[0]["loss"])


def test_the_loss_is_taken_in_float32_whatever_the_networks_precision():
    logits, taught, targets = torch.randn(64, 10), torch.randn(64, 10), torch.arange(64) % 10
    halved = logits.bfloat16(), taught.bfloat16()
    loss = _loss(NetworkOutput(halved[0], ()), targets, Recipe(), halved[1])
    assert loss.dtype == torch.float32
    assert loss == _loss(NetworkOutput(halved[0].float(), ()), targets, Recipe(), halved[1].float())


def test_a_loss_that_is_no_longer_finite_stops_the_run(data, tmp_path):
    with pytest.raises(LcclError, match="no longer finite in epoch 1: lower the learning rate"):
        run(data, tmp_path, recipe=Recipe(epochs=1, batch=8, lr=1e30, first_lr=1e30))


def test_too_few_images_for_one_batch_are_refused(data, tmp_path):
    with pytest.raises(LcclError, match="22 images do not fill a batch of 23"):
        run(data, tmp_path, recipe=Recipe(epochs=1, batch=23))


def test_the_learning_rate_of_a_batch_is_that_of_the_share_done(toy_data, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Recipe, "lr_at", lambda _, progress: asked.append(progress) or 0.01)
    run(toy_data(5, held=1), tmp_path, recipe=Recipe(epochs=2, batch=2))
    assert sorted(set(asked)) == [0, 0.25, 0.5, 0.75]


# export


def test_a_first_bundle_states_exact_alone_measured_on_both_held_out_parts(trained, data):
    """The choosing part's labels are wrong on purpose: it halves what the measuring part alone would show."""
    _, network, record = trained
    wrong = Split(data.choose.images, np.full(4, -1))
    held = HeldOut(data.train, wrong, data.measure, data.digest)
    dataset = Dataset(data.train, data.measure, ("r", "g", "b"))
    bundle = first_bundle(network, RESNET20, dataset, held, record)
    point = bundle.table.exact
    assert len(bundle.table.points) == 1
    assert bundle.table.images == 4
    assert (point.drop, bundle.training.test.images) == (0, 4)
    assert bundle.training.test.accuracy == 2 * point.accuracy > 0
    assert bundle.splits == {"choose": 4, "measure": 4, "digest": "toy", "by": "files"}
    assert bundle.preprocessing.mean == record.data.mean
    assert bundle.labels == ("r", "g", "b")
    assert all(torch.equal(weight, weight.half().float()) for weight in bundle.network.parameters() if weight.dim() > 1)
    assert not all(torch.equal(weight, weight.half().float()) for weight in bundle.network.parameters())


def test_weights_beyond_half_precision_stay_as_they_are(trained, data):
    _, network, record = trained
    network = copy.deepcopy(network)
    large = network.classifier.weight.data.fill_(1e5)
    bundle = first_bundle(network, RESNET20, Dataset(data.train, data.measure, ("r", "g", "b")), data, record)
    assert torch.equal(bundle.network.classifier.weight, torch.full_like(large, 1e5))
