"""Batches are the same whatever the worker processes, and go on from any step."""

import numpy as np
import pytest

from lccl.data import Split, load_dataset
from lccl.errors import DataError
from lccl.preprocessing import Preprocessing
from lccl.train.loader import batches, usual_workers
from lccl.train.recipe import Recipe
from tests.lccl.train import photographs

HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CROPS = Recipe(epochs=5, batch=4, augmentation="crops")
MEAN = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photographs.write(tmp_path_factory.mktemp("photographs"), 6)


def split(folder, size=64, fit="crop"):
    return load_dataset(folder, Preprocessing(size, size, *HALVES, fit=fit, scaled=True)).train


def everything(*arguments, **options):
    images, labels = zip(*batches(*arguments, **options), strict=True)
    return np.stack(images), np.stack(labels)


def alike(first, second):
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # each test has one processor
def test_workers_change_nothing(folder):
    images = split(folder)
    expected = everything(images, CROPS, MEAN, 1)
    assert expected[0].shape == (4, 4, 64, 64, 3)
    for workers in (1, 2):
        assert alike(everything(images, CROPS, MEAN, 1, workers=workers), expected)


@pytest.mark.parametrize("recipe", [CROPS, Recipe(batch=4)])
def test_an_epoch_goes_on_from_any_step(folder, recipe):
    images = split(folder)
    whole = everything(images, recipe, MEAN, 0)
    rest = everything(images, recipe, MEAN, 0, start=2)
    assert alike(rest, [part[2:] for part in whole])


def test_epochs_and_seeds_differ(folder):
    images = split(folder)
    first = everything(images, CROPS, MEAN, 0)
    assert not alike(first, everything(images, CROPS, MEAN, 1))
    assert not alike(first, everything(images, Recipe(batch=4, augmentation="crops", seed=1), MEAN, 0))


def test_every_image_comes_once_with_its_label(folder):
    images = split(folder)
    marked = Split(images.images, np.arange(len(images)))
    _, labels = everything(marked, Recipe(batch=3, augmentation="crops"), MEAN, 0)
    assert sorted(labels.flatten()) == list(range(18))


def test_images_grow_with_the_epochs(folder):
    recipe = Recipe(epochs=5, batch=9, augmentation="crops", sizes="32:96")
    sizes = [everything(split(folder, 96), recipe, MEAN, epoch)[0].shape[2] for epoch in range(5)]
    assert sizes == [32, 32, 64, 96, 96]


def test_sizes_are_drawn_for_each_batch(folder):
    recipe = Recipe(epochs=5, batch=2, augmentation="crops", sizes="32,48,64")
    shapes = [images.shape[1] for epoch in range(4) for images, _ in batches(split(folder), recipe, MEAN, epoch)]
    assert set(shapes) == {32, 48, 64}


def test_stretched_images_are_cut_as_squares(folder):
    cropped, stretched = (everything(split(folder, fit=fit), CROPS, MEAN, 0)[0] for fit in ("crop", "stretch"))
    assert not np.array_equal(cropped, stretched)


def test_images_in_memory_are_cut_too():
    random = np.random.default_rng(0)
    images = Split(random.integers(0, 256, (8, 40, 40, 3), dtype=np.uint8), np.arange(8))
    assert everything(images, CROPS, MEAN, 0)[0].shape == (2, 4, 40, 40, 3)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_goes_is_named_in_one_sentence(tmp_path, workers):
    images = split(photographs.write(tmp_path, 2))
    (tmp_path / "train/red/1.jpg").unlink()
    with pytest.raises(DataError, match=r"^train/red/1\.jpg can no longer be read: .*$"):
        everything(images, Recipe(batch=2, augmentation="crops"), MEAN, 0, workers=workers)


def test_a_gpu_leaves_more_cores_to_decoding(monkeypatch):
    import torch

    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert (usual_workers(torch.device("cpu")), usual_workers(torch.device("cuda"))) == (2, 12)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert (usual_workers(torch.device("cpu")), usual_workers(torch.device("cuda"))) == (1, 1)
