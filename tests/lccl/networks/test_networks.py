"""The networks have the published sizes, become their plain twins when every gate is 1, and refuse what they lack."""

import json
from fractions import Fraction

import pytest
import torch

from lccl.compiler import compile_network
from lccl.errors import ArchitectureError
from lccl.networks import Architecture, build
from lccl.networks.split_conv import SplitConv

CIFAR_DEPTHS = (20, 32, 44, 56, 110)
CONVOLUTION_MACS = (
    2_359_296  # of any but the stem and the two of stride 2: 32² · 16 · 9 · 16 = 16² · 32 · 9 · 32 = 8² · 64 · 9 · 64
)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def cifar_parameters(depth):
    """He et al. 2016, section 4.2: 6n + 2 layers; each convolution is followed by a scale and a shift per channel."""
    n = (depth - 2) // 6
    convolutions = [(3, 16)] + [(16, 16)] * 2 * n + [(16, 32)] + [(32, 32)] * (2 * n - 1)
    convolutions += [(32, 64)] + [(64, 64)] * (2 * n - 1)
    return sum(9 * before * after + 2 * after for before, after in convolutions) + 64 * 10 + 10


@pytest.mark.parametrize("depth", CIFAR_DEPTHS)
def test_plain_cifar_networks_have_the_published_sizes(depth):
    network = build(Architecture(f"resnet{depth}", gate="none"))
    assert parameters(network) == cifar_parameters(depth)
    assert compile_network(network).shape.dense == 40_551_040 + (depth - 20) * CONVOLUTION_MACS


# parameters and MACs as torchvision's documentation has them (1.814, 3.664 and 4.089 thousand million)
@pytest.mark.parametrize(
    ("name", "size", "macs"),
    [
        ("resnet18", 11_689_512, 1_814_073_344), ("resnet34", 21_797_672, 3_663_761_408),
        ("resnet50", 25_557_032, 4_089_184_256),
    ],
)  # fmt: skip
def test_plain_imagenet_networks_have_the_published_sizes(name, size, macs):
    network = build(Architecture(name, gate="none", classes=1000))
    assert parameters(network) == size
    assert compile_network(network).shape.dense == macs


# as He et al. 2016, table 1, has resnet18: two 3×3 convolutions a block, 1×1 shortcuts where stages begin
@pytest.mark.parametrize(
    ("name", "depths", "width"),
    [
        ("resnet10", (1, 1, 1, 1), 64), ("resnet14", (1, 2, 2, 1), 64), ("resnet18-w32", (2, 2, 2, 2), 32),
        ("resnet18-w48", (2, 2, 2, 2), 48),
    ],
)  # fmt: skip
def test_smaller_networks_for_photographs_have_fewer_blocks_or_channels(name, depths, width):
    macs, channels = 112**2 * 49 * 3 * width, width
    for stage, depth in enumerate(depths):
        side, outputs = 56 >> stage, width << stage
        macs += side**2 * 9 * (channels + (2 * depth - 1) * outputs) * outputs
        macs += side**2 * channels * outputs if stage else 0
        channels = outputs
    network = build(Architecture(name, gate="none"))
    assert compile_network(network, engine="reference").shape.dense == macs + 10 * channels


def convolutions(blocks, block):
    """(side, kernel, inputs, outputs) of a CIFAR network's convolutions: stem, blocks of (kernel, outputs), shortcuts.

    ``block(width)`` lists a block's. Strides are those of its first; shortcuts are 1×1 where the channels change.
    """
    found, shortcuts, channels = [(32, 3, 3, 16)], [], 16
    for side, width in ((32, 16), (16, 32), (8, 64)):
        for convs in [block(width)] * blocks:
            before = channels
            for kernel, outputs in convs:
                found.append((side, kernel, channels, outputs))
                channels = outputs
            shortcuts += [(side, 1, before, channels)] if before != channels else []
    return found, shortcuts, channels


def wide(factor):
    return lambda width: [(3, factor * width), (3, factor * width)]


def bottleneck(width):
    return [(1, width), (3, width), (1, 4 * width)]


# millions of parameters: Zagoruyko and Komodakis 2016, tables 4 to 6; He et al. 2016, "Identity Mappings", for 164
@pytest.mark.parametrize(
    ("name", "blocks", "block", "millions"),
    [
        ("wrn-16-4", 2, wide(4), None), ("wrn-22-8", 3, wide(8), 17.2), ("wrn-28-2", 4, wide(2), None),
        ("wrn-28-10", 4, wide(10), 36.5), ("wrn-40-1", 6, wide(1), 0.6), ("wrn-40-2", 6, wide(2), 2.2),
        ("wrn-40-4", 6, wide(4), 8.9), ("wrn-52-1", 8, wide(1), None), ("resnet164", 18, bottleneck, 1.7),
    ],
)  # fmt: skip
def test_plain_pre_activation_networks_have_the_published_sizes(name, blocks, block, millions):
    """Every convolution but stem and shortcuts has a scale and a shift per input channel before it."""
    main, shortcuts, channels = convolutions(blocks, block)
    weights = sum(kernel**2 * inputs * outputs for _, kernel, inputs, outputs in main + shortcuts)
    norms = 2 * sum(inputs for _, _, inputs, _ in main[1:]) + 2 * channels
    network = build(Architecture(name, gate="none"))
    assert parameters(network) == weights + norms + 10 * channels + 10
    assert millions in (None, round(parameters(network) / 1e6, 1))
    macs = sum(side**2 * kernel**2 * inputs * outputs for side, kernel, inputs, outputs in main + shortcuts)
    assert compile_network(network, engine="reference").shape.dense == macs + 10 * channels


@pytest.mark.parametrize(("name", "thousand_millions"), [("wrn-28-10", 5.2), ("resnet164", 0.24)])
def test_the_published_macs(name, thousand_millions):
    network = build(Architecture(name, gate="none"))
    assert compile_network(network, engine="reference").shape.dense / 1e9 == pytest.approx(thousand_millions, rel=0.02)


@pytest.mark.parametrize("depth", [20, 56])
def test_a_shared_gate_adds_one_map_per_convolution(depth):
    """3×3 weights per input channel, a scale and a shift."""
    n = (depth - 2) // 6
    inputs = [16] * 2 * n + [16] + [32] * (2 * n - 1) + [32] + [64] * (2 * n - 1)
    gated = build(Architecture(f"resnet{depth}"))
    assert parameters(gated) - cifar_parameters(depth) == sum(9 * channels + 2 for channels in inputs)
    assert len(gated.skip_convs) == depth - 2


@pytest.mark.parametrize(
    "architecture",
    [
        *(
            Architecture("resnet20", form, gate)
            for form in ("post", "pre")
            for gate in ("shared", "pointwise", "grouped:4")
        ),
        Architecture("resnet44", "pre"),
        Architecture("resnet20", "pre", placement="bef-aft"),
        *(Architecture(name) for name in ("resnet18", "resnet50", "resnet164", "wrn-16-4")),
    ],
)
def test_with_gates_of_one_a_network_is_its_plain_twin(architecture, random_network):
    network = random_network(architecture).double()
    for module in network.skip_convs.values():
        module.gate.conv.weight.zero_()
        module.gate.norm.running_mean.zero_()
        module.gate.norm.bias.fill_(1)
    twin = build(architecture.plain_twin).double().eval()
    weights = network.state_dict()
    twin.load_state_dict({key: weights[key] for key in twin.state_dict()})
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(network(x).logits, twin(x).logits)
        assert network(x).logits.std() > 0


def test_thresholds_have_a_column_per_gated_convolution_in_order(random_network):
    network = random_network(Architecture("resnet20"))
    x = torch.randn(2, 3, 32, 32)
    thresholds = torch.zeros(2, 18)
    thresholds[1, 5] = torch.inf
    exact, changed = network(x), network(x, thresholds)
    assert list(network.skip_convs)[5] == "blocks.2.conv2"
    for before, after in zip(exact.gates[:6], changed.gates[:6], strict=True):
        assert torch.equal(before, after)
    assert torch.equal(exact.gates[6][0], changed.gates[6][0])
    assert not torch.equal(exact.gates[6][1], changed.gates[6][1])


@pytest.mark.parametrize(
    ("architecture", "block", "strides", "gates"),
    [
        (Architecture("resnet164"), 18, (2, 1, 1), {"conv2": (3, 1), "conv3": (1, 1)}),
        (Architecture("resnet164", gate="grouped:4"), 18, (2, 1, 1), {"conv2": (3, 4), "conv3": (1, 4)}),
        (Architecture("resnet164", gate="grouped:4:1x1"), 18, (2, 1, 1), {"conv2": (1, 4), "conv3": (1, 4)}),
        (Architecture("resnet164", gate="pointwise"), 18, (2, 1, 1), {"conv2": (1, 32)}),
        (Architecture("resnet50"), 3, (1, 2, 1), {"conv2": (3, 1)}),
        (Architecture("resnet50", gate="pointwise"), 3, (1, 2, 1), {"conv2": (1, 128)}),
    ],
)
def test_a_bottlenecks_strides_and_gates(architecture, block, strides, gates):
    with torch.device("meta"):
        convs = build(architecture).blocks[block].convs
    assert tuple(conv.conv.stride[0] for conv in convs.values()) == strides
    assert {name: (conv.gate.kernel, conv.gate.groups) for name, conv in convs.items() if conv.gate} == gates


@pytest.mark.parametrize("name", ["resnet20", "resnet164", "wrn-16-4"])
@pytest.mark.parametrize(
    ("placement", "before"),
    [("aft-aft", (False, False)), ("aft-bef", (False, True)), ("bef-bef", (True, True)), ("bef-aft", (True, False))],
)
def test_gates_read_where_their_placement_says(name, placement, before):
    network = build(Architecture(name, "pre", placement=placement)).eval()
    read = {}
    for part, module in network.named_modules():
        module.register_forward_pre_hook(lambda _, inputs, part=part: read.update({part: inputs[0]}))
    network(torch.zeros(1, 3, 8, 8))
    gated = [name for name, conv in network.blocks[1].convs.items() if conv.gate is not None]
    for conv, is_before in zip(gated, before, strict=True):
        norm = conv.replace("conv", "norm")
        raw, activated = read[f"blocks.1.{norm}"], read[f"blocks.1.{conv}.conv"]
        assert raw is not activated
        assert read[f"blocks.1.{conv}.gate"] is (raw if is_before else activated)


@pytest.mark.parametrize(
    ("name", "block", "after"), [("resnet20", 3, False), ("resnet164", 0, True), ("wrn-16-4", 2, True)]
)
def test_a_projection_reads_the_activated_input_and_an_identity_the_raw_one(name, block, after):
    network, read = build(Architecture(name, "pre")).eval(), {}
    for part, module in network.blocks[block].named_children():
        module.register_forward_pre_hook(lambda _, inputs, part=part: read.update({part: inputs[0]}))
    network(torch.zeros(1, 3, 8, 8))
    assert read["shortcut"] is (read["conv1"] if after else read["norm1"])


@pytest.mark.parametrize("form", ["post", "pre"])
def test_gates_are_normalised_or_not(form):
    with torch.device("meta"):
        normalised, bare = (build(Architecture("resnet20", form, gate_norm=wanted)) for wanted in (True, False))
    assert all(module.gate.norm is not None for module in normalised.skip_convs.values())
    assert all(module.gate.norm is None for module in bare.skip_convs.values())
    assert parameters(normalised) - parameters(bare) == 18 * 2


@pytest.mark.parametrize(
    "architecture", [Architecture("resnet20"), Architecture("resnet20", "pre", placement="bef-aft")]
)
def test_a_network_compiles_as_one_graph(architecture, random_network):
    network = random_network(architecture)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    x, thresholds = torch.randn(2, 3, 8, 8), torch.full((2, 18), 0.3)
    assert torch.equal(compiled(x, thresholds).logits, network(x, thresholds).logits)


def test_a_plain_twin_has_no_gates():
    twin = build(Architecture("resnet20", gate="none")).eval()
    assert not twin.skip_convs
    assert twin(torch.zeros(1, 3, 32, 32)).gates == ()
    assert twin(torch.zeros(2, 3, 32, 32), torch.zeros(2, 0)).logits.shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "size"), [("resnet32", 32), ("resnet164", 32), ("wrn-28-10", 32), ("resnet18", 224), ("resnet50", 224)]
)
def test_a_network_classifies_images_of_its_size(name, size):
    with torch.device("meta"):
        network = build(Architecture(name, classes=100))
        assert network.image_size == size
        assert network(torch.zeros(2, 3, size, size)).logits.shape == (2, 100)


@pytest.mark.parametrize(
    ("name", "form"),
    [("resnet20", "post"), ("resnet110", "post"), ("resnet164", "pre"), ("wrn-40-2", "pre"), ("resnet50", "post")],
)
def test_a_network_has_a_usual_form(name, form):
    assert Architecture(name).form == form
    assert Architecture(name) == Architecture(name, form)
    assert Architecture(name).to_json()["form"] == form


@pytest.mark.parametrize(
    ("name", "form", "only"),
    [
        ("resnet18", "pre", "post"),
        ("resnet50", "pre", "post"),
        ("resnet164", "post", "pre"),
        ("wrn-16-4", "post", "pre"),
    ],
)
def test_a_form_that_the_network_lacks_is_refused(name, form, only):
    with pytest.raises(ArchitectureError, match=f"{name} has the {only}-activation form only: use form {only} or auto"):
        Architecture(name, form)


@pytest.mark.parametrize("placement", ["aft-bef", "bef-bef", "bef-aft"])
def test_placements_are_of_pre_activation_networks_with_gates(placement):
    with pytest.raises(ArchitectureError, match="needs the pre-activation form: use form pre"):
        Architecture("resnet20", placement=placement)
    with pytest.raises(ArchitectureError, match="without gates"):
        Architecture("resnet20", "pre", "none", placement=placement)


def test_the_plain_twin_of_any_gates_is_the_same():
    odd = Architecture("resnet20", "pre", "pointwise", 100, "bef-aft", gate_norm=False)
    assert odd.plain_twin == Architecture("resnet20", "pre", "none", 100)


def test_the_plain_twin_of_a_split_network_is_split():
    split = Architecture("resnet20", "pre", split="1/4")
    assert split.plain_twin == Architecture("resnet20", "pre", "none", split="1/4")
    assert split.plain_twin != Architecture("resnet20", "pre").plain_twin


def test_a_split_is_held_in_lowest_terms():
    assert Architecture("resnet20", split="2/8") == Architecture("resnet20", split="1/4")


@pytest.mark.parametrize("split", ["1/2", "1/4", "3/4"])
def test_a_split_network_is_built_split(split):
    network = build(Architecture("resnet20", "pre", "pointwise", split=split))
    convs = [module.conv for module in network.skip_convs.values()]
    assert all(isinstance(conv, SplitConv) for conv in convs)
    assert {conv.window.in_channels / conv.in_channels for conv in convs} == {float(Fraction(split))}


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "resnet51"}, {"name": "ResNet20"}, {"name": "wrn-28-11"}, {"placement": "aft"}, {"placement": ""},
        {"split": ""}, {"split": "half"}, {"split": "0.5"}, {"split": "1/1"}, {"split": "2/1"}, {"split": "0/2"},
        {"split": "1/0"}, {"split": "-1/2"}, {"split": "1 / 2"}, {"split": "1/2 "}, {"split": "1e9/1e10"},
        {"split": "1/" + "9" * 5000}, {"split": "١/٢"},
        {"gate": "none", "gate_norm": False}, {"form": "both"}, {"gate": "grouped"}, {"gate": ""},
        {"classes": 1}, {"classes": 100_001}, {"classes": 10.0}, {"classes": True},
    ],
)  # fmt: skip
def test_an_unknown_architecture_is_refused(fields):
    with pytest.raises(ArchitectureError):
        Architecture(**{"name": "resnet20"} | fields)


def test_what_does_not_fit_is_refused_when_built():
    with pytest.raises(ArchitectureError, match="3 gate groups do not divide 16 channels"):
        build(Architecture("resnet20", gate="grouped:3"))
    with pytest.raises(ArchitectureError, match="1/9 of 16 channels are fewer than 2 groups"):
        build(Architecture("resnet20", split="1/9"))


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("resnet56", "pre", "grouped:4:1x1", 100),
        Architecture("resnet34", gate="none"),
        Architecture("wrn-28-10", placement="bef-aft", gate_norm=False),
        Architecture("resnet20", split="1/2"),
    ],
)
def test_an_architecture_survives_json(architecture):
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture


@pytest.mark.parametrize("missing", [{"placement", "gate_norm", "split"}, {"placement"}, {"gate_norm"}, {"split"}])
def test_descriptions_older_than_later_fields_are_read(missing):
    architecture = Architecture("resnet20", "pre", "pointwise", 3)
    older = {name: value for name, value in architecture.to_json().items() if name not in missing}
    assert Architecture.from_json(older) == architecture


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: None, lambda fields: [fields], lambda fields: {"name": "resnet20"},
        lambda fields: fields | {"depth": 20}, lambda fields: fields | {"name": 20},
        lambda fields: fields | {"name": ["resnet20"]}, lambda fields: fields | {"gate": None},
        lambda fields: fields | {"classes": "10"}, lambda fields: fields | {"form": "auto"},
        lambda fields: fields | {"placement": None}, lambda fields: fields | {"placement": ["aft-aft"]},
        lambda fields: fields | {"split": None}, lambda fields: fields | {"split": 0.5},
        lambda fields: fields | {"split": ["1/2"]}, lambda fields: fields | {"split": "0.5"},
        lambda fields: fields | {"gate_norm": 1}, lambda fields: fields | {"gate_norm": "true"},
        lambda fields: {name: value for name, value in fields.items() if name != "gate"},
    ],
)  # fmt: skip
def test_other_json_is_refused(change):
    with pytest.raises(ArchitectureError):
        Architecture.from_json(change(Architecture("resnet20").to_json()))
