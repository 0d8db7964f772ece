"""A plan is a faithful, ordered description of its network, and its skipped cells hold what it says they hold."""

import numpy as np
import pytest
import torch

from lccl.networks import PLACEMENTS, Architecture, build
from lccl.networks.lowering import lower, network_shape
from lccl.networks.sidenet import SideNetSpec
from lccl.plan import steps
from lccl.plan.geometry import shape_of
from tests.lccl.networks import EVERY_KIND, called, layers_of

PLACED = [
    Architecture(name, "pre", placement=placement)
    for name in ("resnet20", "resnet164", "wrn-16-4")
    for placement in PLACEMENTS
    if placement != "aft-aft"
]
SPLIT = [
    Architecture("resnet20", form, gate, split=split)
    for form in ("post", "pre")
    for gate, split in (("none", "1/2"), ("shared", "1/4"))
]
GATES = ["shared", "pointwise", "grouped:4", "grouped:4:1x1"]


@pytest.mark.parametrize(
    "architecture", [*EVERY_KIND, *(one.plain_twin for one in EVERY_KIND), *PLACED, *SPLIT], ids=called
)
def test_every_buffer_is_written_once_and_then_read(architecture, square):
    plan = lower(build(architecture), square(32))
    written, read = [], set()
    for step in plan.steps:
        sources = {each.buffer for each in step.reads}
        assert sources <= set(written), step
        read |= sources
        written += step.writes
    assert len(set(written)) == len(written)
    assert sorted(written) == sorted(buffer.name for buffer in plan.buffers) == sorted(read)
    assert isinstance(plan.steps[0], steps.Normalise)
    assert isinstance(plan.steps[-1], steps.Classify)


@pytest.mark.parametrize("architecture", EVERY_KIND, ids=called)
def test_gates_come_in_the_order_of_the_columns(architecture, square):
    network = build(architecture)
    plan = lower(network, square(32))
    assert plan.layers == tuple(network.skip_convs)
    assert [step.gate.layer for step in plan.gated] == list(range(len(plan.layers)))
    assert [step.gate.name for step in plan.gated] == list(plan.layers)


@pytest.mark.parametrize(
    ("placement", "first", "second"),
    [
        ("aft-aft", "blocks.0.conv2.a", "blocks.1.conv1.a"), ("aft-bef", "blocks.0.conv2.a", "blocks.1.conv1"),
        ("bef-bef", "blocks.0.conv2", "blocks.1.conv1"), ("bef-aft", "blocks.0.conv2", "blocks.1.conv1.a"),
    ],
)  # fmt: skip
def test_a_gate_reads_the_buffer_of_its_placement(placement, first, second, square):
    plan = lower(build(Architecture("resnet20", "pre", placement=placement)), square(32))
    assert [step.gate.input for step in plan.gated[2:4]] == [first, second]
    assert [step.input for step in plan.gated[2:4]] == ["blocks.0.conv2.a", "blocks.1.conv1.a"]


@pytest.mark.parametrize("form", ["post", "pre"])
def test_a_gate_without_normalisation_has_scale_1_and_shift_0(form, square):
    network = build(Architecture("resnet20", form, "grouped:4", gate_norm=False)).double()
    for step in lower(network, square(32)).gated:
        assert step.gate.affine.scale.dtype == step.gate.affine.shift.dtype == np.float64
        assert np.array_equal(step.gate.affine.scale, np.ones(4))
        assert np.array_equal(step.gate.affine.shift, np.zeros(4))


@pytest.mark.parametrize(
    ("name", "form", "size"), [("resnet20", "post", 33), ("resnet20", "pre", 30), ("resnet18", "post", 37)]
)
def test_buffers_have_the_sizes_that_running_gives_them(name, form, size, make_reference, draw_images, rows):
    engine = make_reference(build(Architecture(name, form)).eval(), size=size)
    _, state = engine.trace(draw_images(1, size), rows(np.zeros((1, len(engine.plan.layers)))))
    for buffer in engine.plan.buffers:
        assert state.values[buffer.name].shape == (1, buffer.channels, buffer.height, buffer.width)


def arrays(value):
    """Every array of a plan, found through its fields."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, tuple):
        return [array for entry in value for array in arrays(entry)]
    fields = getattr(value, "__dataclass_fields__", {})
    return [array for name in fields for array in arrays(getattr(value, name))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arrays_have_the_networks_type_and_are_contiguous(dtype, square):
    plan = lower(build(Architecture("resnet20")).to(dtype).to(memory_format=torch.channels_last), square(32))
    found = arrays(plan)
    assert len(found) > 100
    assert {array.dtype for array in found} == {np.dtype(str(dtype).removeprefix("torch."))}
    assert all(array.flags.c_contiguous for array in found)


def test_normalisation_is_kept_apart_from_the_weights(random_network, square):
    network = random_network(Architecture("resnet20")).double()
    step = lower(network, square(32)).gated[3]
    module = network.skip_convs["blocks.1.conv2"]
    x = torch.randn(2, 16, 4, 4, dtype=torch.float64)
    scale, shift = (torch.from_numpy(array)[:, None, None] for array in (step.affine.scale, step.affine.shift))
    assert np.array_equal(step.weight, module.conv.weight.numpy())
    assert step.affine.scale.shape == step.affine.shift.shape == (16,)
    torch.testing.assert_close(x * scale + shift, module.norm(x))


@pytest.mark.parametrize(
    "architecture", [Architecture("resnet20", "pre", "pointwise"), Architecture("resnet18", split="1/2")], ids=called
)
def test_the_shape_is_that_of_the_plan_and_needs_no_weights(architecture, square):
    specs, network = [SideNetSpec(1, 2, 7), SideNetSpec(4, 3, 20)], build(architecture)
    network.add_sidenets(specs)
    size = network.image_size
    assert network_shape(architecture, size, specs) == shape_of(lower(network, square(size)))


def test_a_plan_does_not_change_with_its_network(random_network, square):
    network = random_network(Architecture("resnet20"))
    plan = lower(network, square(32))
    before = [array.copy() for array in arrays(plan)]
    for tensor in network.state_dict().values():
        tensor.zero_()
    assert all(np.array_equal(old, new) for old, new in zip(before, arrays(plan), strict=True))


@pytest.mark.parametrize("gate", GATES)
def test_fill_in_the_post_activation_form(gate, random_network, square):
    first, second = lower(random_network(Architecture("resnet20", "post", gate)), square(32)).gated[:2]
    assert first.raw == "blocks.0.conv1"
    assert np.array_equal(first.fill("raw"), np.zeros(16))
    assert second.fill("raw") is None
    assert second.fill("activated") is None


@pytest.mark.parametrize("gate", GATES)
def test_fill_in_the_pre_activation_form(gate, random_network, square):
    network = random_network(Architecture("resnet20", "pre", gate))
    first, second = lower(network, square(32)).gated[:2]
    norm = network.blocks[0].norm2
    zero = norm(torch.zeros(1, 16, 1, 1))[0, :, 0, 0]
    assert first.activated.buffer == "blocks.0.conv1.a"
    np.testing.assert_allclose(first.fill("activated"), torch.relu(zero).numpy(), rtol=1e-5, atol=1e-6)
    assert (first.fill("activated") > 0).any()
    assert second.fill("activated") is None


def left_by_skipping(step, output, state):
    """What every cell of an output would hold if the step had skipped it."""
    like = state.values[step.raw if output == "raw" else step.activated.buffer]
    fill = step.fill(output)
    if fill is not None:
        return torch.from_numpy(fill)[:, None, None].expand_as(like)
    source = state.values[step.residual.buffer][:, :, :: step.residual.stride, :: step.residual.stride]
    left = torch.zeros_like(like)
    left[:, : source.shape[1]] = source
    if output == "raw":
        return left
    affine = step.activated.affine
    if affine is not None:
        left = left * torch.from_numpy(affine.scale)[:, None, None] + torch.from_numpy(affine.shift)[:, None, None]
    return torch.relu(left)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(
    ("name", "form", "placement", "size"),
    [
        ("resnet20", "post", "aft-aft", 32), ("resnet20", "pre", "aft-aft", 32), ("resnet20", "pre", "bef-bef", 32),
        ("resnet18", "post", "aft-aft", 64), ("resnet50", "post", "aft-aft", 64), ("resnet164", "pre", "aft-bef", 32),
        ("wrn-16-4", "pre", "bef-aft", 16),
    ],
)  # fmt: skip
def test_skipped_cells_hold_exactly_their_fill_or_the_residual(
    name, form, placement, size, gate, gated_network, make_reference, draw_images, rows
):
    check_skipped(
        Architecture(name, form, gate, placement=placement), size, gated_network, make_reference, draw_images, rows
    )


@pytest.mark.parametrize("form", ["post", "pre"])
def test_skipped_cells_of_split_convolutions_do_too(form, gated_network, make_reference, draw_images, rows):
    architecture = Architecture("resnet20", form, "grouped:4", split="1/2")
    check_skipped(architecture, 32, gated_network, make_reference, draw_images, rows)


def check_skipped(architecture, size, gated_network, make_reference, images, rows):
    pixels, thresholds = images(3, size), np.repeat([[0.1], [0.3], [0.5]], layers_of(architecture), 1)
    engine = make_reference(gated_network(architecture, pixels, thresholds), size=size)
    _, state = engine.trace(pixels, rows(thresholds))
    for step in engine.plan.gated:
        mask = state.masks[step.gate.layer]
        kept = mask.repeat_interleave(len(step.weight) // mask.shape[1], 1)
        for output, buffer in (("raw", step.raw), ("activated", step.activated and step.activated.buffer)):
            if buffer is not None:
                values, left = state.values[buffer], left_by_skipping(step, output, state)
                assert torch.equal(values[~kept], left[~kept])
                assert not torch.equal(values[kept], left[kept])


@pytest.mark.parametrize(
    ("gate", "kernel", "groups"),
    [
        ("shared", 3, [1, 1, 1]),
        ("pointwise", 1, [16, 32, 64]),
        ("grouped:4", 3, [4] * 3),
        ("grouped:4:1x1", 1, [4] * 3),
    ],
)
@pytest.mark.parametrize("form", ["post", "pre"])
def test_the_shape_of_a_plan(form, gate, kernel, groups, square):
    shape = shape_of(lower(build(Architecture("resnet20", form, gate)), square(32)))
    stages = [("blocks.2.conv2", 16, 16, 32), ("blocks.3.conv1", 16, 32, 16), ("blocks.8.conv2", 64, 64, 8)]
    layers = {layer.name: layer for layer in shape.layers}
    for (name, before, after, size), maps in zip(stages, groups, strict=True):
        convolution = layers[name].convolution
        assert (convolution.in_channels, convolution.out_channels, convolution.kernel) == (before, after, 3)
        assert (convolution.height, convolution.width) == (size, size)
        assert (layers[name].gate_kernel, layers[name].gate_groups) == (kernel, maps)
    assert shape.ungated_macs == 32 * 32 * 16 * 27 + 64 * 10
    assert shape.dense == 40_551_040


@pytest.mark.parametrize("form", ["post", "pre"])
def test_a_split_convolution_is_lowered_whole(form, random_network, square):
    network = random_network(Architecture("resnet20", form, split="3/4"))
    step = lower(network, square(32)).gated[7]
    module = network.skip_convs["blocks.3.conv2"].conv
    assert np.array_equal(step.weight, module.window.weight.numpy())
    assert step.weight.shape == (32, 12, 3, 3)  # 24 of 32 channels in two groups
    assert np.array_equal(step.split.pointwise, module.pointwise.weight.numpy())
    assert np.array_equal(step.split.rest, module.rest.weight.numpy())
    x = torch.randn(2, 32, 4, 4)
    for affine, norm in (
        (step.split.affine, module.window_norm),
        (step.split.rest_affine, module.rest_norm),
    ):
        scale, shift = (torch.from_numpy(array)[:, None, None] for array in (affine.scale, affine.shift))
        torch.testing.assert_close(x * scale + shift, norm(x))


def test_the_convolutions_outside_the_blocks_are_not_split(square):
    plan = lower(build(Architecture("resnet18", gate="none", split="1/2")), square(64))
    assert plan.splits
    whole = {step.name for step in plan.steps if isinstance(step, steps.Convolve) and step.split is None}
    assert whole == {"stem", *(f"blocks.{index}.shortcut" for index in (2, 4, 6))}
    assert not lower(build(Architecture("resnet18")), square(64)).splits


@pytest.mark.parametrize(("split", "window", "dense"), [("1/2", 8, 14_926_464), ("1/4", 4, 9_912_960)])
@pytest.mark.parametrize(("form", "gate"), [("post", "shared"), ("pre", "pointwise")])
def test_the_shape_of_a_split_plan(form, gate, split, window, dense, square):
    """A cell takes αC/2 · 9 + αC + (1 − α)C; a gate reads all channels, as ever."""
    shape = shape_of(lower(build(Architecture("resnet20", form, gate, split=split)), square(32)))
    layer = {layer.name: layer for layer in shape.layers}["blocks.2.conv2"]
    assert layer.convolution.cell_macs == window * 9 // 2 + 16
    assert (layer.convolution.in_channels, layer.convolution.out_channels) == (16, 16)
    whole = shape_of(lower(build(Architecture("resnet20", form, gate)), square(32)))
    assert shape.gates == whole.gates
    assert shape.dense == dense
    assert shape.means == sum(one.convolution.out_channels * one.convolution.cell_macs for one in shape.layers)
    assert shape.gated(shape.cells[None])[0] == dense + shape.gates + shape.means


def test_the_plain_twins_plan_has_the_same_dense_macs_and_no_layers(square):
    twin = shape_of(lower(build(Architecture("resnet18", gate="none")), square(64)))
    assert twin.layers == ()
    assert twin.dense == shape_of(lower(build(Architecture("resnet18")), square(64))).dense
