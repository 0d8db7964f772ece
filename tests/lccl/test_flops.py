"""MAC counts follow the LCCL paper's formulas and its published speed-ups."""

import numpy as np
import pytest

from lccl.compiler import compile as make_engine
from lccl.flops import Convolution, GatedConvolution, NetworkShape, speed_up
from lccl.networks import Architecture, build

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
    assert speed_up(CONVOLUTION, kernel, groups, ninths / 9) == pytest.approx(gain(ninths / 9), abs=1e-12)
    assert 1 - gated.gated_macs(kept) / CONVOLUTION.macs == pytest.approx(gain(ninths / 9), abs=1e-12)


@pytest.mark.parametrize(("name", "skipped", "published"), [("resnet18", 0.382, 0.346), ("resnet34", 0.264, 0.248)])
def test_the_published_imagenet_speed_ups_with_shared_gates(name, skipped, published):
    shape = make_engine(build(Architecture(name, classes=1000))).shape
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
