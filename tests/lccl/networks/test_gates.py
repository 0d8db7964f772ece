"""Gate texts mean what they say, fit their convolution or are refused, and gates are maps that are never negative."""

import pytest
import torch

from lccl.errors import ArchitectureError
from lccl.networks.gates import Gate, GateSpec


@pytest.mark.parametrize(
    "text",
    [
        "", "none", "Shared", " shared", "shared:1", "pointwise:1x1", "grouped", "grouped:", "grouped:0", "grouped:-4",
        "grouped:4.0", "grouped:٤", "grouped:4:3x3", "grouped:4:1x1:", "grouped:" + "9" * 5000,
    ],
)  # fmt: skip
def test_other_texts_are_refused(text):
    with pytest.raises(ArchitectureError):
        GateSpec.parse(text)


@pytest.mark.parametrize(
    ("text", "kernel", "groups"),
    [("shared", 3, 1), ("pointwise", 1, 64), ("grouped:8", 3, 8), ("grouped:8:1x1", 1, 8), ("grouped:64", 3, 64)],
)
def test_kernel_and_groups_for_a_3x3_convolution_of_64_channels(text, kernel, groups):
    spec = GateSpec.parse(text)
    assert (spec.kernel_for(3), spec.groups_for(64)) == (kernel, groups)


@pytest.mark.parametrize("groups", [3, 5, 48, 128])
def test_groups_that_do_not_divide_the_channels_are_refused(groups):
    with pytest.raises(ArchitectureError, match=f"{groups} gate groups do not divide 64"):
        GateSpec.parse(f"grouped:{groups}").groups_for(64)


@pytest.mark.parametrize(("kernel", "groups"), [(3, 1), (1, 16), (3, 4)])
@pytest.mark.parametrize(("stride", "size", "out"), [(1, 8, 8), (2, 8, 4), (2, 7, 4)])
def test_a_gate_is_one_map_per_group(kernel, groups, stride, size, out):
    gate = Gate(5, kernel, groups, stride)
    assert gate(torch.randn(2, 5, size, size)).shape == (2, groups, out, out)


def test_a_gate_is_never_negative_and_reaches_zero():
    torch.manual_seed(0)
    values = Gate(5, 3, 2, 1, initial_shift=0.0)(torch.randn(4, 5, 8, 8))
    assert values.min() == 0
    assert values.max() > 0


def test_without_normalisation_a_gate_is_its_convolution_above_zero():
    gate, x = Gate(5, 3, 2, 1, norm=False), torch.randn(4, 5, 8, 8)
    assert [name for name, _ in gate.named_parameters()] == ["conv.weight"]
    assert torch.equal(gate(x), torch.relu(gate.conv(x)))
    assert 0 < gate(x).max() < 1


def test_a_fresh_gate_is_mostly_open():
    torch.manual_seed(0)
    values = Gate(5, 3, 2, 1)(torch.randn(4, 5, 8, 8))
    assert (values > 0).float().mean() > 0.7
