"""SideNets: what they read, where they may stand, and images that leave by them, against a loop over single images."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lccl.compiler import compile_network
from lccl.errors import ArchitectureError, InputError
from lccl.networks import Architecture
from lccl.networks.lowering import lower
from lccl.networks.sidenet import SideNetSpec
from lccl.plan.geometry import shape_of
from lccl.plan.run import RunOptions
from tests.conftest import random_network
from tests.lccl.settings import uniform

SPECS = [SideNetSpec(1, 2, 12), SideNetSpec(4, 3, 8), SideNetSpec(7, 1, 8)]
KINDS = [Architecture("resnet20"), Architecture("resnet20", "pre"), Architecture("resnet20", gate="none")]


def with_sidenets(architecture, specs=SPECS, seed=0):
    """A random network in float64; its SideNets give clear answers, each at a temperature of its own."""
    network = random_network(architecture, seed).double()
    network.add_sidenets(specs)
    torch.manual_seed(seed)
    for number, side in enumerate(network.sidenets):
        side.double().requires_grad_(False)
        side.classifier.weight.mul_(20)
        side.temperature.fill_(0.8 + 0.1 * number)
    if specs:
        network.sidenets.double().temperature.fill_(1.3)
    return network


def naive(network, engine, image, thresholds, confidences):
    """One image, module by module: logits, the exit that answered, and the MACs spent, counted on the way."""
    preprocessing = engine.plan.steps[0]
    x = (torch.from_numpy(image).double() / 255 - torch.from_numpy(preprocessing.mean)) / torch.from_numpy(
        preprocessing.std
    )
    x = x.permute(2, 0, 1)[None]
    macs = 9 * 3 * 16 * 32 * 32
    x = network.stem_conv(x)
    x = torch.relu(network.stem_norm(x)) if network.form == "post" else x
    sides = {side.spec.after: (number, side) for number, side in enumerate(network.sidenets)}
    layer = 0
    for block, module in enumerate(network.blocks):
        gated = [conv for conv in module.convs.values() if conv.gate is not None]
        columns = [torch.tensor([float(value)]).double() for value in thresholds[layer : layer + len(gated)]]
        before = x
        x, gates = module(x, columns)
        for conv in module.convs.values():
            stride, channels = conv.conv.stride[0], conv.conv.in_channels
            positions = (
                (before.shape[2] // stride) ** 2 if conv is next(iter(module.convs.values())) else x.shape[2] ** 2
            )
            kept = positions
            if conv.gate is not None:
                kept = int((gates[layer % 2] > columns[layer % 2]).sum())
                macs += positions * channels * 9
                layer += 1
            macs += kept * conv.conv.out_channels * channels * 9
        if block in sides:
            number, side = sides[block]
            following = None if network.form == "post" else [*network.blocks][block + 1].norms[0]
            seen = x if following is None else torch.relu(following(x))
            hidden = side.hidden(F.adaptive_avg_pool2d(seen, side.spec.grid).flatten(1))
            logits = side.classifier(torch.relu(hidden)) / side.temperature
            macs += side.hidden.weight.numel() + side.classifier.weight.numel()
            if float(torch.softmax(logits, 1).max()) > confidences[number]:
                return logits[0].numpy(), number, macs
    x = x if network.final_norm is None else torch.relu(network.final_norm(x))
    logits = network.classifier(x.mean((2, 3)))
    logits = logits if network.sidenets.temperature is None else logits / network.sidenets.temperature
    return logits[0].numpy(), len(network.sidenets), macs + network.classifier.weight.numel()


def run(engine, images, thresholds, confidences):
    count = len(images)
    options = RunOptions(
        np.broadcast_to(np.float32(thresholds), (count, len(engine.plan.layers))),
        np.broadcast_to(np.float32(confidences), (count, engine.plan.exits)),
    )
    return engine.run(images, options)


def confidences_of(engine, images):
    """How confident each exit is of each image, [N, E]: all are sent out there."""
    exits, found = engine.plan.exits, []
    for number in range(exits):
        out = run(engine, images, 0, [0.0 if number == other else 1.0 for other in range(exits)])
        assert (out.exit_index == number).all()
        found.append(torch.softmax(torch.from_numpy(out.logits), 1).amax(1).numpy())
    return np.stack(found, 1)


@pytest.mark.parametrize("architecture", KINDS, ids=lambda one: f"{one.form}-{one.gate}")
@pytest.mark.parametrize("count", [1, 7])
def test_every_image_leaves_where_it_would_alone(architecture, count, draw_images, square):
    network = with_sidenets(architecture)
    engine = compile_network(network, engine="reference", precision="fp64", preprocessing=square(32))
    images, random = draw_images(count), np.random.default_rng(count)
    layers = len(engine.plan.layers)
    levels = random.uniform(-0.2, 0.6, (count, layers)).astype(np.float32)
    confidence = confidences_of(engine, images)
    levels_of_exits = random.uniform(confidence.min(0) - 0.05, confidence.max(0) + 0.05, (count, 3)).astype(np.float32)
    out = run(engine, images, levels, levels_of_exits)
    for image in range(count):
        logits, exit_index, macs = naive(network, engine, images[image], levels[image], levels_of_exits[image])
        assert out.exit_index[image] == exit_index
        assert out.logits[image] == pytest.approx(logits, rel=1e-9, abs=1e-9)
        assert engine.shape.gated(out.kept, out.exit_index)[image] == macs


def test_the_images_of_a_batch_take_different_ways(draw_images, square):
    """What the comparison above rests on."""
    engine = compile_network(with_sidenets(KINDS[0]), engine="reference", precision="fp64", preprocessing=square(32))
    images = draw_images(16)
    confidence = confidences_of(engine, images)
    assert set(run(engine, images, 0, np.quantile(confidence, 0.6, axis=0)).exit_index) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("confidences", "expected"),
    [([0, 0, 0], [0] * 4), ([1, 1, 1], [3] * 4), ([[0, 1, 1], [1, 1, 1]] * 2, [0, 3] * 2), ([1, 0, 1], [1] * 4)],
    ids=["all at the first", "none", "alternating", "all at the second"],
)
def test_exits_at_the_ends_of_the_range(confidences, expected, draw_images, square):
    network = with_sidenets(KINDS[0])
    engine = compile_network(network, engine="reference", precision="fp64", preprocessing=square(32))
    images = draw_images(4)
    out = run(engine, images, 0.1, confidences)
    assert out.exit_index.tolist() == expected
    before = [sum(layer.name < f"blocks.{place}.conv3" for layer in engine.shape.layers) for place in (1, 4, 7)]
    for image, exit_index in enumerate(expected):
        reached = [*before, 18][exit_index]
        assert (out.kept[image, :reached] > 0).all()
        assert not out.kept[image, reached:].any()
    dense = engine.shape.gated(engine.shape.reached(out.exit_index) * engine.shape.cells, out.exit_index)
    assert out.executed_macs.tolist() == dense.tolist()


def test_an_image_as_confident_as_the_threshold_stays(draw_images, square):
    engine = compile_network(with_sidenets(KINDS[0]), engine="reference", precision="fp64", preprocessing=square(32))
    images = draw_images(1)
    confidence = np.float32(confidences_of(engine, images)[0, 0])
    higher, lower = np.nextafter(confidence, np.float32(2)), np.nextafter(confidence, np.float32(-1))
    assert run(engine, images, 0, [higher, 1, 1]).exit_index.tolist() == [3]
    assert run(engine, images, 0, [lower, 1, 1]).exit_index.tolist() == [0]


def test_masks_of_layers_behind_an_exit_are_empty(draw_images, square):
    engine = compile_network(with_sidenets(KINDS[0]), engine="reference", preprocessing=square(32))
    options = uniform(2, [0.1] * 18, want_masks=True, exit_confidence=[1, 0, 1])
    out = engine.run(draw_images(2), options)
    assert [bool(mask.any()) for mask in out.masks] == [True] * 10 + [False] * 8
    assert [mask.shape[0] for mask in out.masks] == [2] * 18


def test_without_exit_confidences_no_image_leaves_and_only_the_temperature_is_new(draw_images, square):
    plain, images = random_network(KINDS[0]).double(), draw_images(3)
    engines = [
        compile_network(network, engine="reference", precision="fp64", preprocessing=square(32))
        for network in (plain, with_sidenets(KINDS[0]))
    ]
    options = uniform(3, [0.2] * 18)
    alone, beside = (engine.run(images, options) for engine in engines)
    assert beside.exit_index.tolist() == [3, 3, 3]
    assert beside.logits == pytest.approx(alone.logits / 1.3)
    assert np.array_equal(beside.kept, alone.kept)
    sides = 16 * 4 * 12 + 12 * 10 + 32 * 9 * 8 + 8 * 10 + 64 * 8 + 8 * 10
    assert engines[1].shape.gated(beside.kept, beside.exit_index) == pytest.approx(
        engines[0].shape.gated(alone.kept) + sides, abs=0
    )
    assert engines[1].shape.dense == engines[0].shape.dense


@pytest.mark.parametrize("architecture", KINDS, ids=lambda one: f"{one.form}-{one.gate}")
def test_the_modules_and_the_plan_agree_on_what_sidenets_answer(architecture, draw_images, square):
    network = with_sidenets(architecture)
    engine = compile_network(network, engine="reference", precision="fp64", preprocessing=square(32))
    images = draw_images(3)
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (square(32).mean, square(32).std))
    pixels = (torch.from_numpy(images).double() / 255 - mean) / std
    output, features = network.with_features(pixels.permute(0, 3, 1, 2))
    for number, (side, value) in enumerate(zip(network.sidenets, features, strict=True)):
        sent_out = run(engine, images, 0, [0.0 if number == other else 1.0 for other in range(3)])
        assert sent_out.logits == pytest.approx(side.classify(value).numpy(), rel=1e-9, abs=1e-9)
    assert run(engine, images, 0, [1, 1, 1]).logits == pytest.approx(output.logits.numpy() / 1.3, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([SideNetSpec(9, 1, 8)], "no block 9: this network's are 0 to 8"),
        ([SideNetSpec(-1, 1, 8)], "no block -1"),
        ([SideNetSpec(4, 1, 8), SideNetSpec(4, 2, 8)], "different blocks"),
        ([SideNetSpec(4, 1, 8), SideNetSpec(2, 1, 8)], "in the blocks' order"),
        ([SideNetSpec(4, 0, 8)], "1 to 16 parts a side, not 0"),
        ([SideNetSpec(4, 17, 8)], "1 to 16 parts a side, not 17"),
        ([SideNetSpec(4, 1, 0)], "1 to 4096 units, not 0"),
        ([SideNetSpec(4, 1, 4097)], "1 to 4096 units, not 4097"),
        ([SideNetSpec(place, 16, 4096) for place in range(6, 9)], "201,449,472 weights are too large"),
    ],
)
def test_sidenets_that_do_not_fit_are_refused(specs, message):
    with pytest.raises(ArchitectureError, match=message):
        random_network(KINDS[0]).add_sidenets(specs)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"after": 1, "grid": 1}, "'hidden'"),
        ({"after": 1, "grid": 1, "hidden": 8, "more": 1}, "unexpected more"),
        ([1, 1, 8], "no object"),
        ({"after": 1.0, "grid": 1, "hidden": 8}, "after is 1.0, which is no int"),
        ({"after": True, "grid": 1, "hidden": 8}, "after is True, which is no int"),
    ],
)
def test_descriptions_that_are_none_are_refused(value, message):
    with pytest.raises(ArchitectureError, match=message):
        SideNetSpec.from_json(value)


def test_a_shape_has_what_lies_before_each_exit(square):
    shape = shape_of(lower(with_sidenets(KINDS[0]), square(32)))
    assert [early.layers for early in shape.exits] == [4, 10, 16]
    stem = 9 * 3 * 16 * 1024
    assert [early.ungated_macs for early in shape.exits] == [stem] * 3
    assert shape.reached(np.array([0, 3, 1])).sum(1).tolist() == [4, 18, 10]


@pytest.mark.parametrize(
    ("confidences", "message"), [(np.zeros((2, 2)), r"\[2, 3\] or \[2, 0\]"), (np.full((2, 3), np.nan), "not be NaN")]
)
def test_confidences_that_do_not_fit_are_refused(confidences, message, draw_images, square, rows):
    engine = compile_network(with_sidenets(KINDS[0]), engine="reference", preprocessing=square(32))
    with pytest.raises(InputError, match=message):
        engine.run(draw_images(2), rows(np.zeros((2, 18)), exit_confidence=confidences.astype(np.float32)))


def test_an_image_that_leaves_is_not_charged_for_means_behind_its_exit(draw_images, square):
    network = with_sidenets(Architecture("resnet20", split="1/2"))
    engine = compile_network(network, engine="reference", precision="fp64", preprocessing=square(32))
    shape, images = engine.shape, draw_images(2)
    early, end = (run(engine, images, 0.1, confidences) for confidences in ([1, 0, 1], [1, 1, 1]))
    assert 0 < shape.exits[0].means < shape.exits[1].means < shape.means
    behind = sum(layer.gate_macs for layer in shape.layers[10:]) + shape.means - shape.exits[1].means
    behind += network.classifier.weight.numel() + shape.exits[2].macs
    cells = ((end.kept - early.kept) @ shape.cell_macs).tolist()
    saved = shape.gated(end.kept, end.exit_index) - shape.gated(early.kept, early.exit_index)
    assert saved.tolist() == [behind + one for one in cells]
