"""What the measured networks look at: images of a data set, or noise with the spectrum of natural images."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lccl.data import ARCHIVES, IMAGES, Dataset, load_dataset
from lccl.errors import DataError
from lccl.preprocessing import Preprocessing

NOISE = "1/f noise"


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Images uint8 [N, size, size, 3], and in words where they come from."""

    source: str
    images: NDArray[np.uint8]


def noise_images(count: int, size: int, seed: int = 0) -> Images:
    """Draw images whose amplitudes fall with 1/f, as those of natural images do; phases are random.

    Brightness varies more than colour does. Source: Field, "Relations between the statistics of
    natural images and the response properties of cortical cells", JOSA A, 1987.
    """
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf
    white = np.fft.rfft2(random.standard_normal((count, 3, size, size)))
    fields = np.fft.irfft2(white / frequency, s=(size, size))
    fields /= fields.std(axis=(2, 3), keepdims=True)
    brightness, red_green, blue_yellow = fields.transpose(1, 0, 2, 3)
    colours = np.stack([brightness + 0.25 * red_green, brightness - 0.25 * red_green, brightness + 0.35 * blue_yellow])
    pixels = 118 + 58 * colours.transpose(1, 2, 3, 0)
    return Images(NOISE, pixels.round().clip(0, 255).astype(np.uint8))


def dataset_images(path: Path, preprocessing: Preprocessing, count: int, seed: int = 0) -> Images:
    """Choose images of a data set that :func:`load_dataset` reads, its test images where there are any.

    Images smaller than the network's input are scaled up (bicubic).

    Raises:
        DataError: nothing readable is there, or there are too few images.

    """
    return choose(read_images(path, preprocessing), path.name, preprocessing, count, seed)


def read_images(path: Path, preprocessing: Preprocessing) -> Dataset:
    """Read a data set, no larger than its images are: scaled up, CIFAR's would not fit into memory."""
    side = _shorter_side(path)
    if side >= preprocessing.resize:
        return load_dataset(path, preprocessing)
    return load_dataset(path, Preprocessing(side, side, preprocessing.mean, preprocessing.std))


def choose(dataset: Dataset, source: str, preprocessing: Preprocessing, count: int, seed: int = 0) -> Images:
    """Choose ``count`` images by chance and bring them to the network's input size.

    Raises:
        DataError: there are too few images.

    """
    split = dataset.test if len(dataset.test) else dataset.train
    if len(split) < count:
        raise DataError(f"{source} has {len(split)} images, and {count} are needed")
    images = split.images[np.random.default_rng(seed).permutation(len(split))[:count]]
    if images.shape[1] != preprocessing.size:
        source = f"{source}, scaled from {images.shape[1]} to {preprocessing.size} pixels"
        images = np.stack([preprocessing.apply(Image.fromarray(image)) for image in images])
    return Images(source, np.ascontiguousarray(images))


def _shorter_side(path: Path) -> int:
    """Pixels of the first image's shorter side; 32 where there is none, as in CIFAR's binary folder."""
    try:
        if path.is_file() and path.name.endswith(ARCHIVES):
            with tarfile.open(path) as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.isfile() else None
                    if content is not None and Path(member.name).suffix.lower() in IMAGES:
                        return _side_of(Image.open(content))
        elif path.is_dir():
            first = next((file for file in path.rglob("*") if file.suffix.lower() in IMAGES), None)
            return 32 if first is None else _side_of(Image.open(first))
    except (UnidentifiedImageError, Image.DecompressionBombError, tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} is not readable: {error}") from error
    return 32


def _side_of(image: Image.Image) -> int:
    with image:
        return min(image.size)
