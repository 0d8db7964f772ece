"""A SkipConv is its convolution times its gate where that exceeds the image's threshold, and 0 elsewhere."""

import pytest
import torch

from lccl.networks.gates import GateSpec
from lccl.networks.skip_conv import SkipConv


def skip_conv(place="bare", gate="shared"):
    torch.manual_seed(0)
    return SkipConv(6, 8, 3, 1, place, None if gate is None else GateSpec.parse(gate)).eval().requires_grad_(False)


@pytest.mark.parametrize("gate", ["shared", "pointwise", "grouped:4", "grouped:2:1x1"])
def test_cells_at_or_below_the_threshold_are_zero_and_others_are_products(gate):
    layer, x = skip_conv(gate=gate), torch.randn(3, 6, 5, 5)
    values = layer.gate(x)
    threshold = torch.tensor([0.0, float(values[1].median()), float("inf")])
    y, returned = layer(x, threshold)
    wide = values.repeat_interleave(8 // values.shape[1], dim=1)
    kept = wide > threshold[:, None, None, None]
    assert torch.equal(returned, values)
    assert 0 < kept[1].float().mean() < kept[0].float().mean() <= 1
    assert torch.equal(y, torch.where(kept, layer.conv(x) * wide, torch.zeros(())))


def test_a_gate_may_read_another_tensor_than_the_convolution():
    layer, x, other = skip_conv(), torch.randn(2, 6, 5, 5), torch.randn(2, 6, 5, 5)
    y, values = layer(x, gate_input=other)
    assert torch.equal(values, layer.gate(other))
    assert torch.equal(y, layer.conv(x) * values)


def test_without_normalisation_the_gate_is_the_convolution_above_zero():
    layer = SkipConv(6, 8, 3, 1, "bare", GateSpec("shared", norm=False))
    x = torch.randn(2, 6, 5, 5)
    assert layer.gate.norm is None
    assert torch.equal(layer(x)[1], torch.relu(layer.gate.conv(x)))


def test_no_threshold_means_exact():
    layer, x = skip_conv(), torch.randn(2, 6, 5, 5)
    assert torch.equal(layer(x)[0], layer(x, torch.zeros(2))[0])


def test_without_a_gate_it_is_the_convolution():
    layer, x = skip_conv(gate=None), torch.randn(2, 6, 5, 5)
    y, gate = layer(x, torch.ones(2))
    assert gate is None
    assert torch.equal(y, layer.conv(x))


@pytest.mark.parametrize("place", ["norm_relu", "norm", "bare"])
def test_the_place_says_what_comes_before_the_product(place):
    layer, x = skip_conv(place, gate=None), torch.randn(2, 6, 5, 5)
    y = layer.conv(x)
    expected = {"bare": y, "norm": y * (1 + 1e-5) ** -0.5, "norm_relu": torch.relu(y * (1 + 1e-5) ** -0.5)}[place]
    torch.testing.assert_close(layer(x)[0], expected)
    assert (layer.norm is None) == (place == "bare")
