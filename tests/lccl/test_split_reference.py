"""Split convolutions in the reference engine: what is mixed, and by which means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lccl.engines.reference import tap_means
from lccl.networks import Architecture
from tests.lccl.reference_runs import exact


@pytest.mark.parametrize("form", ["post", "pre"])
@pytest.mark.parametrize("size", [32, 19])  # 19, 10 and 5: pools and windows of stride 2 end beyond the border
def test_without_skipping_a_split_network_answers_as_with_every_gate_computed(
    form, size, gated_network, make_reference, draw_images, rows
):
    pixels, zeros = draw_images(3, size), np.zeros((3, 18), np.float32)
    engine = make_reference(gated_network(Architecture("resnet20", form, split="1/2"), pixels, zeros), size=size)
    exact, dense = (engine.run(pixels, rows(np.full_like(zeros, tau))) for tau in (0.0, -np.inf))
    np.testing.assert_allclose(exact.logits, dense.logits, rtol=1e-12, atol=1e-12)
    assert (exact.kept < dense.kept).any()


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 5), (1, 2)])
def test_weights_times_the_taps_means_are_the_means_of_the_cells(height, width, stride, kernel):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, height, width, dtype=torch.float64, generator=random)
    weight = torch.randn(4, 3, kernel, kernel, dtype=torch.float64, generator=random)
    cells = torch.nn.functional.conv2d(x, weight, stride=stride, padding=kernel // 2, groups=2)
    found = torch.nn.functional.conv2d(tap_means(x, kernel, stride), weight, groups=2)
    torch.testing.assert_close(found, cells.mean(dim=(2, 3), keepdim=True), rtol=1e-12, atol=1e-12)


def test_the_means_of_a_split_convolution_never_come_from_its_cells(gated_network, make_reference, draw_images, rows):
    """Cells that an engine skips, broken here, change no other cell."""
    pixels, thresholds = draw_images(2), np.full((2, 18), 0.3, np.float32)
    engine = make_reference(gated_network(Architecture("resnet20", split="1/2"), pixels, thresholds))
    whole = engine.run(pixels, rows(thresholds))
    conv2d, broken = torch.nn.functional.conv2d, []

    def skipping(x, weight, **fields):
        value = conv2d(x, weight, **fields)
        if fields.get("groups", 1) > 1 and value.shape[2] > 1:
            broken.append(value)
            return torch.where(next(masks), value, 1e6)
        return value

    _, state = engine.trace(pixels, rows(thresholds))
    masks = iter([state.masks[layer] for layer in range(18)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lccl.engines.reference.F.conv2d", skipping)
        assert np.array_equal(engine.run(pixels, rows(thresholds)).logits, whole.logits)
    assert len(broken) == 18


@pytest.mark.parametrize("gate", ["none", "shared"])
def test_a_split_network_executes_all_cells_gates_and_means(gate, random_network, make_reference, draw_images):
    engine = make_reference(random_network(Architecture("resnet20", gate=gate, split="1/2")))
    out = engine.run(draw_images(2), exact(2, len(engine.plan.layers)))
    assert engine.shape.means > 0
    assert out.executed_macs.tolist() == [14_926_464 + engine.shape.gates + engine.shape.means] * 2
