"""Skip maps against loops over single positions, and against what the engine counts."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import lccl
from lccl.errors import InputError, QualityError
from lccl.networks import Architecture
from lccl.plan.geometry import Convolution, GatedConvolution, NetworkShape
from lccl.plan.run import RunOptions
from lccl.request import QualityRequest, resolve
from lccl.skip_map import COVER, SkipMap

# Maps that do and do not divide the input, one group, two, and one per channel.
SHAPE = NetworkShape(
    layers=(
        GatedConvolution("wide", Convolution(3, 4, 3, 12, 8), 3, 1),
        GatedConvolution("odd", Convolution(4, 4, 3, 5, 3), 1, 2),
        GatedConvolution("deep", Convolution(4, 6, 1, 3, 2), 1, 6),
    ),
    ungated_macs=100,
)
SIZE = (12, 8)


def random_masks(seed=0):
    random = np.random.default_rng(seed)
    return [
        random.integers(0, 2, (layer.gate_groups, layer.convolution.height, layer.convolution.width), dtype=np.uint8)
        for layer in SHAPE.layers
    ]


def kept_cells(masks):
    """Each group rules as many neighbouring channels as the others."""
    channels = [layer.convolution.out_channels // layer.gate_groups for layer in SHAPE.layers]
    return np.array([int(mask.sum()) * each for mask, each in zip(masks, channels, strict=True)])


def mapped(masks):
    return SkipMap.of_masks(SHAPE, SIZE, masks, kept_cells(masks))


def naive_share(masks, y, x):
    """MACs done over MACs, of the positions of all layers that cover a pixel."""
    done = whole = 0.0
    for layer, mask in zip(SHAPE.layers, masks, strict=True):
        height, width = mask.shape[1:]
        row, column = y * height // SIZE[0], x * width // SIZE[1]
        kept = sum(int(mask[group, row, column]) for group in range(len(mask)))
        done += layer.convolution.macs * kept / len(mask)
        whole += layer.convolution.macs
    return done / whole


@pytest.mark.parametrize("seed", range(3))
def test_the_share_at_each_pixel_is_that_of_the_positions_that_cover_it(seed):
    masks = random_masks(seed)
    share = mapped(masks).kept_share()
    expected = [[naive_share(masks, y, x) for x in range(SIZE[1])] for y in range(SIZE[0])]
    np.testing.assert_allclose(share, expected, rtol=1e-12)


def test_one_layers_share_is_its_mask_laid_over_the_input():
    masks = random_masks()
    share = mapped(masks).kept_share("odd")
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            assert share[y, x] == masks[1][:, y * 5 // 12, x * 3 // 8].mean()


def test_where_maps_divide_the_input_the_mean_share_is_what_was_not_skipped():
    shape = NetworkShape((SHAPE.layers[0], SHAPE.layers[0]), 0)
    mask = random_masks()[0]
    kept = np.array([4 * int(mask.sum()), 4 * int((1 - mask).sum())])
    skips = SkipMap.of_masks(shape, SIZE, [mask, 1 - mask], kept)
    assert skips.kept_share().mean() == pytest.approx(1 - skips.skip_ratio)
    np.testing.assert_allclose(skips.kept_share(), 0.5)


def test_layers_count_their_cells():
    masks = random_masks()
    skips = mapped(masks)
    assert [layer.name for layer in skips.layers] == ["wide", "odd", "deep"]
    assert [layer.cells for layer in skips.layers] == [384, 60, 36]
    assert skips.skip_ratio == pytest.approx(float(SHAPE.skip_ratio(kept_cells(masks)[None])[0]))
    for layer, ratio in zip(skips.layers, SHAPE.layer_skip_ratios(kept_cells(masks)[None])[0], strict=True):
        assert layer.skip_ratio == pytest.approx(float(ratio))


def test_a_network_without_gates_computes_everywhere():
    skips = SkipMap.of_masks(NetworkShape((), 100), SIZE, [], np.zeros(0, np.int64))
    assert skips.skip_ratio == 0
    assert (skips.kept_share() == 1).all()
    with pytest.raises(InputError, match="no gated layer 'wide': this model has none"):
        skips.kept_share("wide")


def test_masks_must_be_the_shapes():
    with pytest.raises(ValueError, match="shorter"):
        SkipMap.of_masks(SHAPE, SIZE, random_masks()[:2], np.zeros(3, np.int64))


def test_an_unknown_layer_is_answered_with_those_there_are():
    with pytest.raises(InputError, match=r"no gated layer 'x+': use one of wide, odd, deep"):
        mapped(random_masks()).draw(Image.new("RGB", (8, 12)), "x" * 1000)


def test_what_was_computed_stays_and_what_was_skipped_is_covered():
    masks = random_masks()
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (12, 8, 3), dtype=np.uint8))
    drawn = np.asarray(mapped(masks).draw(image, "wide", opacity=1.0))
    factor = 32  # 8 pixels become 256
    assert drawn.shape == (12 * factor, 8 * factor, 3)
    for y in range(12):
        for x in range(8):
            expected = np.asarray(image)[y, x] if masks[0][0, y, x] else COVER
            assert (drawn[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor] == expected).all()


def test_a_thin_cover_mixes_with_the_image():
    masks = [np.zeros_like(mask) for mask in random_masks()]
    drawn = np.asarray(mapped(masks).draw(Image.new("RGB", (256, 256), (200, 100, 0)), opacity=0.25))
    assert (drawn == [169, 80, 35]).all()


@pytest.mark.parametrize("opacity", [0.0, 1.0])
def test_the_cover_may_be_none_or_whole(opacity):
    masks = [np.zeros_like(mask) for mask in random_masks()]
    drawn = np.asarray(mapped(masks).draw(Image.new("RGB", (256, 256), (9, 9, 9)), opacity=opacity))
    assert (drawn == (COVER if opacity else 9)).all()


@pytest.mark.parametrize("opacity", [-0.01, 1.01, float("nan")])
def test_other_covers_are_refused(opacity):
    with pytest.raises(InputError, match="opacity must lie in"):
        mapped(random_masks()).draw(Image.new("RGB", (8, 8)), opacity=opacity)


@pytest.mark.parametrize("gate", ["shared", "pointwise"])
@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_a_notebook_gets_what_the_engine_did(random_bundle, gate, engine):
    bundle = random_bundle(Architecture("resnet20", gate=gate))
    compiled = lccl.compile(bundle, engine=engine)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    quality = QualityRequest(sparsity=0.4)
    skips = lccl.SkipMap.of(bundle, image, quality, engine=compiled)
    pixels = bundle.preprocessing.apply(image)
    output = compiled.run(pixels[None], RunOptions.of([resolve(bundle.table, quality).wanted.setting]))
    assert [layer.kept for layer in skips.layers] == output.kept[0].tolist()
    assert skips.skip_ratio == pytest.approx(float(compiled.shape.skip_ratio(output.kept)[0]))
    assert skips.kept_share().shape == (32, 32)
    assert 0 < skips.kept_share().mean() < 1
    assert skips.draw(Image.fromarray(pixels)).size == (256, 256)


def test_a_notebook_may_leave_the_engine_and_the_quality_out(bundle):
    skips = lccl.SkipMap.of(bundle, Image.new("L", (50, 20), 128))
    assert len(skips.layers) == 18
    with pytest.raises(QualityError):
        lccl.SkipMap.of(bundle, Image.new("L", (50, 20)), QualityRequest(sparsity=0.99))
