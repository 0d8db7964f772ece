"""MAC counts follow the LCCL paper's formulas and its published speed-ups."""

import numpy as np
import pytest
import torch
from torch import nn

from lccl.compiler import compile_network
from lccl.networks import Architecture, build
from lccl.networks.lowering import lower
from lccl.networks.resnet import ProjectionShortcut
from lccl.networks.split_conv import SplitConv
from lccl.plan.geometry import Convolution, GatedConvolution, NetworkShape, shape_of

X, Y, C, T, K = 9, 7, 20, 36, 3
CONVOLUTION = Convolution(in_channels=C, out_channels=T, kernel=K, height=X, width=Y)

# the paper's table 1; r is the share of cells kept
KINDS = {
    "basic 3x3": (3, T, lambda r: X * Y * T * C * (9 + K**2 * r), lambda r: 1 - (9 / K**2 + r)),
    "pointwise": (1, T, lambda r: X * Y * T * C * (1 + K**2 * r), lambda r: 1 - (1 / K**2 + r)),
    "grouped 3x3": (3, 4, lambda r: X * Y * C * (9 * 4 + K**2 * T * r), lambda r: 1 - (9 * 4 / (K**2 * T) + r)),
    "grouped 1x1": (1, 4, lambda r: X * Y * C * (4 + K**2 * T * r), lambda r: 1 - (4 / (K**2 * T) + r)),
    "shared": (3, 1, lambda r: X * Y * K**2 * C * (1 + T * r), lambda r: 1 - (1 / T + r)),
}


def test_a_plain_convolution():
    assert CONVOLUTION.macs == X * Y * T * K**2 * C
    assert CONVOLUTION.cells == X * Y * T
    assert CONVOLUTION.cell_macs == K**2 * C


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ninths", [0, 1, 5, 9])
def test_a_gated_convolution(kind, ninths):
    kernel, groups, macs, gain = KINDS[kind]
    gated = GatedConvolution("layer", CONVOLUTION, kernel, groups)
    kept = CONVOLUTION.cells * ninths // 9
    assert gated.gated_macs(kept) == pytest.approx(macs(ninths / 9), rel=1e-12)
    assert 1 - gated.gated_macs(kept) / CONVOLUTION.macs == pytest.approx(gain(ninths / 9), abs=1e-12)


@pytest.mark.parametrize(("window", "alpha"), [(4, 1 / 2), (2, 1 / 4), (1, 1 / 8)])
def test_a_split_convolution(window, alpha):
    """Of 16 channels 16 α pass a 3×3 window in two groups; its means take what one position takes."""
    split = Convolution(16, T, 3, X, Y, window_channels=window)
    assert split.cell_macs == alpha * 16 / 2 * 9 + alpha * 16 + (1 - alpha) * 16
    assert split.macs == X * Y * T * split.cell_macs
    assert split.mean_macs == T * split.cell_macs
    assert CONVOLUTION.mean_macs == 0


@pytest.mark.parametrize(
    ("split", "dense", "published", "parameters"),
    [
        ("none", 40_551_040, 41.62e6, range(270_000, 280_000)),
        ("1/2", 14_926_464, 17.91e6, range(100_000, 110_000)),
        ("1/4", 9_912_960, 12.89e6, range(71_000, 72_000)),  # as told, cut off and not rounded
    ],
)
def test_the_published_figures_of_split_convolutions(split, dense, published, parameters, square):
    network = build(Architecture("resnet20", gate="none", split=split))
    assert shape_of(lower(network, square(32))).dense == dense
    macs, weights = in_the_papers_way(network)
    assert macs == pytest.approx(published, rel=0.002)
    assert weights in parameters


def in_the_papers_way(network):
    """MACs and parameters as "Split to Be Slim" counts them: shortcuts of type B, and every layer that computes.

    Four operations for each normalised element; one for each element that a pool reads, and for each bias, which the
    1×1 convolution of the rest has there.
    """
    for block, channels in zip((network.blocks[3], network.blocks[6]), (16, 32), strict=True):
        block.shortcut = ProjectionShortcut(channels, 2 * channels, 2, norm=True)
    operations = []

    def count(module, inputs, output):
        if isinstance(module, nn.Conv2d):
            operations.append(output.numel() * module.weight[0].numel())
        elif isinstance(module, nn.BatchNorm2d):
            operations.append(4 * output.numel())
        elif isinstance(module, nn.Linear):
            operations.append(module.weight.numel() + module.bias.numel() + inputs[0].numel() * 8 * 8)
        elif isinstance(module, SplitConv):
            pooled = inputs[0].numel() if module.stride[0] > 1 else 0
            operations.append((2 + 1) * output.numel() + pooled)  # two means, a bias

    for module in network.modules():
        module.register_forward_hook(count)
    network.eval()(torch.zeros(1, 3, 32, 32))
    biases = sum(module.out_channels for module in network.modules() if isinstance(module, SplitConv))
    return sum(operations), sum(weight.numel() for weight in network.parameters()) + biases


@pytest.mark.parametrize(("name", "skipped", "published"), [("resnet18", 0.382, 0.346), ("resnet34", 0.264, 0.248)])
def test_the_published_imagenet_speed_ups_with_shared_gates(name, skipped, published):
    shape = compile_network(build(Architecture(name, classes=1000))).shape
    kept = np.round((1 - skipped) * shape.cells).astype(np.int64)[None]
    assert 1 - shape.gated(kept)[0] / shape.dense == pytest.approx(published, abs=0.005)


@pytest.fixture
def shape():
    """Two layers: 4 cells of 10 MACs with a gate of 20, 6 cells of 45 MACs with a gate of 90; 100 MACs beside."""
    first = GatedConvolution("first", Convolution(10, 1, 1, 2, 2), 1, 1)
    second = GatedConvolution("second", Convolution(5, 3, 3, 2, 1), 3, 1)
    return NetworkShape((first, second), 100)


def test_totals_of_a_network(shape):
    assert shape.cells.tolist() == [4, 6]
    assert shape.cell_macs.tolist() == [10, 45]
    assert shape.dense == 100 + 4 * 10 + 6 * 45
    assert shape.gates == 40 + 90


@pytest.mark.parametrize(
    ("kept", "gated", "skip_ratio", "by_layer"),
    [
        ([4, 6], 230 + 40 + 270, 0.0, [0, 0]),
        ([0, 0], 230, 1.0, [1, 1]),
        ([1, 6], 230 + 10 + 270, 30 / 310, [0.75, 0]),
        ([4, 3], 230 + 40 + 135, 135 / 310, [0, 0.5]),
    ],
)
def test_counts_of_one_image(shape, kept, gated, skip_ratio, by_layer):
    counts = np.array([kept], dtype=np.int64)
    assert shape.gated(counts).tolist() == [gated]
    assert shape.skip_ratio(counts) == pytest.approx([skip_ratio])
    assert shape.layer_skip_ratios(counts)[0].tolist() == by_layer


def test_means_count_as_gated_whatever_is_kept_and_not_as_dense(shape):
    split = NetworkShape(shape.layers, shape.ungated_macs, means=7)
    kept = np.array([[4, 6], [0, 0]], dtype=np.int64)
    assert split.dense == shape.dense
    assert (split.gated(kept) - shape.gated(kept)).tolist() == [7, 7]
    assert np.array_equal(split.skip_ratio(kept), shape.skip_ratio(kept))


def test_images_are_counted_one_by_one(shape):
    counts = np.array([[4, 6], [0, 0], [1, 6]], dtype=np.int64)
    assert shape.gated(counts).tolist() == [540, 230, 510]
    assert shape.skip_ratio(counts) == pytest.approx([0, 1, 30 / 310])


def test_without_gates_nothing_is_skipped():
    shape = NetworkShape((), 100)
    none = np.zeros((2, 0), dtype=np.int64)
    assert shape.skip_ratio(none).tolist() == [0, 0]
    assert shape.gated(none).tolist() == [100, 100]
    assert shape.dense == 100
