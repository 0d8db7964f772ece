"""The networks have the published sizes, become their plain twins when every gate is 1, and refuse what they lack."""

import json

import pytest
import torch

from lccl.compiler import compile as make_engine
from lccl.errors import ArchitectureError
from lccl.networks import Architecture, build

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
    assert make_engine(network).shape.dense == 40_551_040 + (depth - 20) * CONVOLUTION_MACS


@pytest.mark.parametrize(
    ("name", "size", "macs"), [("resnet18", 11_689_512, 1_814_073_344), ("resnet34", 21_797_672, 3_663_761_408)]
)
def test_plain_imagenet_networks_have_the_published_sizes(name, size, macs):
    network = build(Architecture(name, gate="none", classes=1000))
    assert parameters(network) == size
    assert make_engine(network).shape.dense == macs


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
        Architecture("resnet18"),
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


def test_a_plain_twin_has_no_gates():
    twin = build(Architecture("resnet20", gate="none")).eval()
    assert not twin.skip_convs
    assert twin(torch.zeros(1, 3, 32, 32)).gates == ()
    assert twin(torch.zeros(2, 3, 32, 32), torch.zeros(2, 0)).logits.shape == (2, 10)


@pytest.mark.parametrize(("name", "size"), [("resnet32", 32), ("resnet18", 224)])
def test_a_network_classifies_pictures_of_its_size(name, size):
    with torch.device("meta"):
        network = build(Architecture(name, classes=7))
        assert network.image_size == size
        assert network(torch.zeros(2, 3, size, size)).logits.shape == (2, 7)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "resnet50"}, {"name": "ResNet20"}, {"form": "both"}, {"gate": "grouped"}, {"gate": ""},
        {"classes": 1}, {"classes": 100_001}, {"classes": 10.0}, {"classes": True},
    ],
)  # fmt: skip
def test_an_unknown_architecture_is_refused(fields):
    with pytest.raises(ArchitectureError):
        Architecture(**{"name": "resnet20"} | fields)


@pytest.mark.parametrize(
    "architecture", [Architecture("resnet18", form="pre"), Architecture("resnet20", gate="grouped:3")]
)
def test_what_does_not_fit_is_refused_when_built(architecture):
    with pytest.raises(ArchitectureError):
        build(architecture)


@pytest.mark.parametrize(
    "architecture", [Architecture("resnet56", "pre", "grouped:4:1x1", 100), Architecture("resnet34", gate="none")]
)
def test_an_architecture_survives_json(architecture):
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: None, lambda fields: [fields], lambda fields: {"name": "resnet20"},
        lambda fields: fields | {"depth": 20}, lambda fields: fields | {"name": 20},
        lambda fields: fields | {"name": ["resnet20"]}, lambda fields: fields | {"gate": None},
        lambda fields: fields | {"classes": "10"},
    ],
)  # fmt: skip
def test_other_json_is_refused(change):
    with pytest.raises(ArchitectureError):
        Architecture.from_json(change(Architecture("resnet20").to_json()))
