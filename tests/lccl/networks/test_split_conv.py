"""A split convolution is the paper's formula, has its gradients, and takes the place of 3×3 convolutions alone."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from lccl.errors import ArchitectureError
from lccl.networks import Architecture, build
from lccl.networks.split_conv import SplitConv, convert

ALPHAS = [Fraction(1, 2), Fraction(1, 4), Fraction(3, 4), 0.625]


def split_conv(channels=8, out=6, stride=1, alpha=0.5):
    torch.manual_seed(0)
    layer = SplitConv(channels, out, stride, alpha).double().eval()
    for norm in (layer.window_norm, layer.rest_norm):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return layer


def naive(layer, x, stride, count):
    """The formula cell by cell in numpy; ``count`` channels are representative."""
    weight = {name: value.detach().numpy() for name, value in layer.state_dict().items()}
    x = x.detach().numpy()
    images, _, height, width = x.shape
    out, groups = len(weight["rest.weight"]), 2
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    u3, u1 = np.zeros((2, images, out, (height + stride - 1) // stride, (width + stride - 1) // stride))
    for row in range(u3.shape[2]):
        for column in range(u3.shape[3]):
            window = padded[:, :, row * stride : row * stride + 3, column * stride : column * stride + 3]
            pooled = x[:, :, row * stride : (row + 1) * stride, column * stride : (column + 1) * stride].mean((2, 3))
            for channel in range(out):
                first = channel // (out // groups) * (count // groups)
                read = window[:, first : first + count // groups]
                u3[:, channel, row, column] = (read * weight["window.weight"][channel]).sum((1, 2, 3))
                u3[:, channel, row, column] += pooled[:, :count] @ weight["pointwise.weight"][channel, :, 0, 0]
                u1[:, channel, row, column] = pooled[:, count:] @ weight["rest.weight"][channel, :, 0, 0]

    def normalised(u, norm):
        parts = (weight[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
        scale, shift, mean, variance = (part[:, None, None] for part in parts)
        return (u - mean) / np.sqrt(variance + 1e-5) * scale + shift

    u3, u1 = normalised(u3, "window_norm"), normalised(u1, "rest_norm")
    s3, s1 = (np.exp(u.mean((2, 3), keepdims=True)) for u in (u3, u1))
    return u3 * s3 / (s3 + s1) + u1 * s1 / (s3 + s1)


@pytest.mark.parametrize("alpha", ALPHAS, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 5), (1, 3)])
def test_it_is_the_papers_formula(height, width, stride, alpha):
    layer, x = split_conv(stride=stride, alpha=alpha), torch.randn(2, 8, height, width, dtype=torch.float64)
    count = {0.5: 4, 0.25: 2, 0.75: 6, 0.625: 4}[float(alpha)]  # five of eight are two groups of two
    y = layer(x)
    assert y.shape == (2, 6, -(-height // stride), -(-width // stride))
    np.testing.assert_allclose(y.detach().numpy(), naive(layer, x, stride, count), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("stride", "size", "alpha"), [(1, 4, 0.5), (1, 3, 0.75), (2, 4, 0.25), (2, 5, 0.5)])
def test_its_gradients_are_those_of_the_formula(stride, size, alpha, training):
    layer = split_conv(8, 4, stride, alpha).train(training)
    x = torch.randn(2, 8, size, size, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))


@pytest.mark.parametrize("stride", [1, 2])
def test_it_takes_a_convolutions_place(stride):
    conv = nn.Conv2d(8, 6, 3, stride, 1, bias=False)
    layer = SplitConv(8, 6, stride, 0.5)
    for name in ("in_channels", "out_channels", "stride", "kernel_size"):
        assert getattr(layer, name) == getattr(conv, name)
    x = torch.randn(2, 8, 7, 7)
    assert layer(x).shape == conv(x).shape


@pytest.mark.parametrize("alpha", [Fraction(1, 2), Fraction(1, 4), Fraction(1, 8)])
def test_it_has_the_papers_share_of_a_convolutions_weights(alpha):
    layer = SplitConv(64, 48, 1, alpha)
    weights = sum(weight.numel() for weight in layer.parameters() if weight.dim() == 4)
    assert weights == 48 * 64 * (alpha * 9 / 2 + alpha + 1 - alpha)
    assert weights / (48 * 64 * 9) == pytest.approx({2: 0.36, 4: 0.236, 8: 0.174}[alpha.denominator], abs=0.0015)


def test_fresh_weights_are_he_normal():
    torch.manual_seed(0)
    layer = SplitConv(256, 256, 1, 0.5)
    for weight in (layer.window.weight, layer.pointwise.weight, layer.rest.weight):
        assert float(weight.detach().std()) == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("channels", "out", "alpha", "match"),
    [
        (16, 16, 0, "lies between 0 and 1"), (16, 16, 1, "lies between 0 and 1"), (16, 16, -0.5, "lies between"),
        (16, 16, 1.5, "lies between"), (16, 16, float("nan"), "lies between"), (16, 16, float("inf"), "lies between"),
        (16, 16, Fraction(1, 9), "1/9 of 16 channels are fewer than 2"), (2, 16, 0.9, "fewer than 2"),
        (1, 16, 0.5, "fewer than 2"), (16, 15, 0.5, "2 groups do not divide 15 channels"),
    ],
)  # fmt: skip
def test_channels_that_cannot_be_split_are_refused(channels, out, alpha, match):
    with pytest.raises(ArchitectureError, match=match):
        SplitConv(channels, out, 1, alpha)


@pytest.mark.parametrize("least", [Fraction(1, 8), 0.125])
def test_the_smallest_split_leaves_each_group_one_channel(least):
    assert SplitConv(16, 16, 1, least).window.in_channels == 2


def test_a_decimal_ratio_means_what_it_says():
    assert SplitConv(20, 2, 1, 0.3).window.in_channels == 6  # in binary, 0.3 is a little less


# conversion


@pytest.mark.parametrize(
    ("architecture", "converted"),
    [
        (Architecture("resnet20"), ("conv1", "conv2")), (Architecture("resnet18", gate="none"), ("conv1", "conv2")),
        (Architecture("resnet20", "pre", "pointwise"), ("conv1", "conv2")), (Architecture("resnet50"), ("conv2",)),
        (Architecture("resnet164"), ("conv2",)), (Architecture("wrn-16-4"), ("conv1", "conv2")),
    ],
)  # fmt: skip
def test_every_3x3_convolution_of_the_blocks_is_split_and_nothing_else(architecture, converted):
    with torch.device("meta"):
        before, network = build(architecture), build(architecture)
        convert(network, 0.5)
    inside = {f"blocks.{index}.{name}.conv" for index in range(len(network.blocks)) for name in converted}
    modules = dict(network.named_modules())
    assert {name for name, module in modules.items() if isinstance(module, SplitConv)} == inside
    for name, module in before.named_modules():
        if name in inside:
            assert (modules[name].in_channels, modules[name].out_channels) == (module.in_channels, module.out_channels)
            assert modules[name].stride == module.stride
        else:
            assert type(modules[name]) is type(module)


def test_conversion_keeps_type_and_mode():
    network = build(Architecture("resnet20")).double().eval()
    convert(network, 0.5)
    assert {value.dtype for value in network.parameters()} == {torch.float64}
    assert not any(module.training for module in network.modules())


def test_a_network_that_cannot_be_converted_stays_as_it_was():
    network = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 7, 3, padding=1, bias=False))
    with pytest.raises(ArchitectureError, match="do not divide 7 channels"):
        convert(network, 0.5)
    assert all(type(module) is nn.Conv2d for module in network)


def test_a_network_is_converted_once():
    network = build(Architecture("resnet20"))
    convert(network, 0.5)
    with pytest.raises(ArchitectureError, match="no 3×3 convolution that can be split"):
        convert(network, 0.5)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 1, bias=False), nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False), nn.Conv2d(8, 8, 3, bias=False),
        nn.Conv2d(8, 8, 5, padding=2, bias=False), nn.Conv2d(8, 8, 3, padding=2, dilation=2, bias=False),
    ],
)  # fmt: skip
def test_other_convolutions_stay(conv):
    with pytest.raises(ArchitectureError, match="no 3×3 convolution"):
        convert(nn.Sequential(conv), 0.5)


@pytest.mark.parametrize(
    "unusual",
    [{"stride": (2, 1)}, {"padding_mode": "circular"}, {"bias": True}, {"dilation": 2, "padding": 2}],
    ids=str,
)
def test_convolutions_that_a_split_one_cannot_stand_for_stay(unusual):
    settings = {"padding": 1, "bias": False} | unusual
    network = nn.Sequential(nn.Conv2d(8, 8, 3, **settings), nn.Conv2d(8, 8, 3, padding=1, bias=False))
    convert(network, 0.5)
    assert [type(conv).__name__ for conv in network] == ["Conv2d", "SplitConv"]


def test_a_split_network_can_be_compiled(random_network):
    network = random_network(Architecture("resnet20", split="1/2"))
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    x = torch.randn(2, 3, 9, 9)
    assert torch.equal(compiled(x).logits, network(x).logits)
