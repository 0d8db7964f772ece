"""How gates begin: the kurtosis of what blocks put out, and that the usual start keeps the plain twin's."""

from __future__ import annotations

import pytest
import torch

from benchmarks.paper.start import STARTS, begun, kurtosis
from lccl.train.recipe import Recipe


@pytest.mark.parametrize("form", ["pre", "post"])
def test_gates_begin_so_that_no_position_outweighs_the_others(form):
    random, usual = torch.Generator().manual_seed(0), Recipe()
    regions = torch.nn.functional.interpolate(torch.randn(64, 3, 4, 4, generator=random), (32, 32), mode="bilinear")
    images = regions + 0.1 * torch.randn(64, 3, 32, 32, generator=random)
    starts = (None, (usual.gate_scale, usual.gate_shift), STARTS["1 ± 0.25"], STARTS["half open: 0 ± 1"])
    plain, begun_usual, *wide = (max(kurtosis(begun(form, start), images)) for start in starts)
    assert begun_usual < 5 * plain
    assert min(wide) > 100 * plain


class Scales(torch.nn.Module):
    """A block that changes its input's scale alone."""

    def forward(self, x):
        return 3 * x + 1, []


class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([Scales(), Scales()])

    def forward(self, x):
        for block in self.blocks:
            x, _ = block(x)
        return x


def test_normal_values_have_a_kurtosis_of_three_and_rare_ones_a_large_one():
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert kurtosis(Scaled(), images) == pytest.approx([3, 3], abs=0.1)
    images = torch.zeros(10, 3, 10, 10)
    images[0, :, 0, 0] = 1.0
    assert kurtosis(Scaled(), images) == pytest.approx([997, 997], rel=0.01)
