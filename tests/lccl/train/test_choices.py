"""Defaults differ between thumbnails and photographs; what is asked for by name holds; impossible sizes are refused."""

from dataclasses import replace

import numpy as np
import pytest

from lccl.data import Dataset, Split
from lccl.errors import LcclError
from lccl.networks import Architecture
from lccl.preprocessing import Preprocessing
from lccl.train import choices
from lccl.train.attach import IMAGENET
from lccl.train.choices import SHAPE, adapted, chosen, chosen_to_attach, named
from lccl.train.plain_weights import PlainNetwork
from lccl.train.recipe import PHOTOGRAPHS, Recipe, continued, read_sizes

NOTHING = dict.fromkeys(("epochs", "batch", "lr", "seed", "precision"))
SMALL, LARGE = Architecture("resnet20"), Architecture("resnet18")


def choose(architecture=LARGE, start=None, size=None, fit=None, **given):
    return chosen(architecture, start, size, fit, "cpu", NOTHING | given)


def dataset(count, classes=("a", "b", "c")):
    split = Split(np.zeros((count, 1, 1, 3), np.uint8), np.zeros(count, np.int64))
    return Dataset(split, split.first(0), classes)


def test_thumbnails_are_trained_as_before():
    choice = choose(SMALL)
    assert choice.recipe == Recipe()
    assert (choice.preprocessing.size, choice.preprocessing.resize) == (32, 32)
    assert adapted(choice, dataset(160), None) == Recipe()
    assert adapted(choice, dataset(155), None).batch == 8


def test_photographs_have_a_recipe_of_their_own():
    choice = choose()
    assert replace(choice.recipe, precision="fp32") == replace(PHOTOGRAPHS, sizes="128:160")
    assert (choice.preprocessing.size, choice.preprocessing.resize) == (160, 182)
    assert (choice.preprocessing.fit, choice.preprocessing.scaled) == ("crop", True)


def test_what_is_asked_for_holds():
    choice = choose(size="192", fit="stretch", epochs=3, lr=0.2, precision="fp32")
    assert (choice.recipe.epochs, choice.recipe.lr, choice.recipe.sizes) == (3, 0.2, "")
    assert (choice.preprocessing.size, choice.preprocessing.resize, choice.preprocessing.fit) == (192, 192, "stretch")
    assert choose(size="96,128,160").recipe.sizes == "96,128,160"


@pytest.mark.parametrize(
    ("flags", "expected"), [(["avx2", "avx512_bf16"], "bf16"), (["amx_bf16"], "bf16"), (["avx2"], "fp32"), ([], "fp32")]
)
def test_bfloat16_where_the_processor_multiplies_it(flags, expected, monkeypatch):
    monkeypatch.setattr(choices.provenance, "machine", lambda: {"flags": flags})
    assert choose().recipe.precision == expected
    assert choose(SMALL).recipe.precision == "fp32"
    assert choose(precision="fp32").recipe.precision == "fp32"


@pytest.mark.parametrize(
    "size",
    ["95", "321", "32:128", "64:80", "64,128", "128:328", "160:128", "128:128", "a", "", "96:128:160", "96,128:160"],
)
def test_an_impossible_size_is_refused(size):
    with pytest.raises(LcclError, match=r"pixels a side|is not readable"):
        choose(size=size)


def test_sizes_from_96_to_320_are_taken():
    assert choose(size="96").preprocessing.size == 96
    assert choose(size="320").preprocessing.size == 320
    assert choose(SMALL, size="16").preprocessing.size == 16
    with pytest.raises(LcclError, match="only photographs"):
        choose(SMALL, size="16:32")


def test_photographs_may_grow_from_smaller_than_they_are_served():
    assert choose(size="64:128").recipe.sizes == "64:128"


@pytest.mark.parametrize(("text", "sizes"), [("160", [160]), ("128:160", [128, 160]), ("96,128,160", [96, 128, 160])])
def test_sizes_are_read(text, sizes):
    assert read_sizes(text) == sizes


@pytest.mark.parametrize(("images", "batch"), [(10_000, 64), (600, 32), (100, 8), (6, 6), (2, 2)])
def test_few_photographs_are_trained_in_small_batches(images, batch):
    assert adapted(choose(), dataset(images), None).batch == batch
    assert adapted(choose(batch=48), dataset(images), None).batch == 48


def test_a_start_brings_its_input_along(random_bundle):
    start = random_bundle(replace(LARGE, classes=3))
    start = replace(start, labels=("a", "b", "c"), preprocessing=Preprocessing(128, 146, (0.4,) * 3, (0.2,) * 3))
    choice = choose(start=start)
    assert (choice.preprocessing, choice.recipe.sizes) == (start.preprocessing, "")
    larger = choose(start=start, size="192", fit="stretch").preprocessing
    assert (larger.size, larger.resize, larger.fit, larger.mean) == (192, 192, "stretch", (0.4,) * 3)
    assert choose(start=start, size="160").preprocessing.resize == 182
    assert adapted(choice, dataset(9000), start) == continued(choice.recipe)


def test_a_start_names_the_network_and_its_gates(random_bundle):
    pointwise, plain = (random_bundle(Architecture("resnet32", gate=gate)) for gate in ("pointwise", "none"))
    assert named(None, None, {}, None) == Architecture("resnet20")
    assert named(None, None, {}, pointwise) == Architecture("resnet32", gate="pointwise")
    assert named(None, None, {}, plain) == Architecture("resnet32")
    assert named(None, "none", {}, plain) == Architecture("resnet32", gate="none")
    assert named("resnet20", "shared", {"form": "pre"}, pointwise) == Architecture("resnet20", "pre")


def test_a_start_keeps_what_it_is_made_of(random_bundle):
    """Placement has no weights by which the loop could tell that it is another network."""
    made = Architecture("resnet20", "pre", placement="bef-bef", gate_norm=False)
    start, nothing = random_bundle(made), dict.fromkeys(SHAPE)
    assert named(None, None, nothing, start) == made
    assert named("resnet20", None, nothing | {"placement": "aft-bef"}, start) == replace(made, placement="aft-bef")
    assert named("resnet32", None, nothing, start) == Architecture("resnet32")


def test_other_classes_are_learned_with_a_slow_trunk(random_bundle):
    start = random_bundle(replace(LARGE, classes=3))
    recipe = adapted(choose(start=start), dataset(600), start)
    assert (recipe.epochs, recipe.batch, recipe.trunk_rate) == (15, 32, 0.1)
    assert not any(recipe.searches_curve(epoch) for epoch in range(recipe.epochs))
    assert adapted(choose(start=start, epochs=40), dataset(600), start).epochs == 40


def test_attaching_takes_half_the_rate(random_network):
    def choice(architecture, size=None, fit=None, **given):
        plain = PlainNetwork(random_network(architecture), architecture, "x", "x")
        return chosen_to_attach(plain, None, size, fit, "cpu", NOTHING | {"epochs": 5} | given)

    small, large = choice(SMALL.plain_twin), choice(LARGE.plain_twin)
    assert (small.recipe.lr, small.recipe.augmentation, small.preprocessing.size) == (0.05, "shifts", 32)
    assert (large.recipe.lr, large.recipe.augmentation, large.preprocessing.size) == (0.025, "crops", 224)
    assert choice(LARGE.plain_twin, lr=0.3).recipe.lr == 0.3
    other = choice(LARGE.plain_twin, "160", "stretch").preprocessing
    assert (other.size, other.resize, other.fit, other.mean) == (160, 160, "stretch", IMAGENET[0])
