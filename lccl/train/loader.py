"""Batches of an epoch: shifted images from memory, or parts of photographs, decoded and cut by other processes."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from lccl.data import Split
from lccl.data.images import FileImages
from lccl.errors import DataError
from lccl.train.augmentation import augment, random_crop
from lccl.train.recipe import Recipe

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]
MOST_WORKERS = 12


def usual_workers(device: torch.device) -> int:
    """Processes that decode: on a CPU they share its cores with training, beside a GPU they have them to themselves."""
    cores = os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores - 2 if device.type == "cuda" else cores // 8))


def batches(
    split: Split, recipe: Recipe, mean: tuple[float, ...], epoch: int, *, start: int = 0, workers: int = 0
) -> Iterator[Batch]:
    """An epoch's batches from the ``start``-th on; the same whatever the workers.

    Raises:
        DataError: a file can no longer be read.

    """
    if recipe.augmentation == "shifts":
        yield from _shifted(split, recipe, mean, epoch, start)
        return
    crops = _Crops(split, recipe, epoch)
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
        crops, batch_size=None, sampler=range(start, len(crops)), num_workers=workers, generator=torch.Generator()
    )
    try:
        for images, labels in loader:
            yield images.numpy(), labels.numpy()
    except DataError as error:  # a worker's comes with its traceback as text
        raise DataError(str(error).strip().splitlines()[-1].removeprefix("lccl.errors.DataError: ")) from error


def _shifted(split: Split, recipe: Recipe, mean: tuple[float, ...], epoch: int, start: int) -> Iterator[Batch]:
    random = np.random.default_rng([recipe.seed, epoch])
    order = random.permutation(len(split))
    fill = np.round(np.array(mean) * 255).astype(np.uint8)
    for step in range(len(order) // recipe.batch):
        index = order[step * recipe.batch : (step + 1) * recipe.batch]
        shifted = augment(split.images[index], fill, random)  # what is passed over takes its random numbers, too
        if step >= start:
            yield shifted, split.labels[index]


class _Crops(TorchDataset[Any]):
    """An epoch's batches by number; each has random numbers of its own, so that any process can make any of them."""

    def __init__(self, split: Split, recipe: Recipe, epoch: int) -> None:
        self._split, self._recipe, self._epoch = split, recipe, epoch
        self._order = np.random.default_rng([recipe.seed, epoch]).permutation(len(split))

    def __len__(self) -> int:
        return len(self._order) // self._recipe.batch

    def __getitem__(self, step: int) -> Batch:
        recipe, images = self._recipe, self._split.images
        index = self._order[step * recipe.batch : (step + 1) * recipe.batch]
        random = np.random.default_rng([recipe.seed, self._epoch, step])
        size = recipe.size_at(self._epoch, images.shape[1], random)
        stretch = isinstance(images, FileImages) and images.preprocessing.fit == "stretch"
        out = np.empty((len(index), size, size, 3), dtype=np.uint8)
        for place, number in enumerate(index):
            pixels = images.source(number) if isinstance(images, FileImages) else images[number]
            out[place] = random_crop(pixels, size, recipe.crop_area, recipe.crop_ratio, stretch, random)
        return out, self._split.labels[index]
