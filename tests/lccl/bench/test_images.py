"""The images that are measured on."""

import tarfile

import numpy as np
import pytest
from PIL import Image

from lccl.bench.images import Images, dataset_images, noise_images
from lccl.errors import DataError
from lccl.preprocessing import Preprocessing
from tests.lccl.bench.conftest import SIXTEEN


def test_noise_has_the_spectrum_of_natural_images():
    grey = noise_images(32, 64).images.astype(float).mean(3)
    amplitude = np.abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True))).mean(0)
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None])
    middle = (frequency > 0.05) & (frequency < 0.3)
    slope = np.polyfit(np.log(frequency[middle]), np.log(amplitude[middle]), 1)[0]
    assert -1.3 < slope < -0.7
    assert 40 < grey.std() < 80


def test_small_images_are_scaled_up(tmp_path):
    for number in range(4):
        file = tmp_path / "train" / "a" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise_images(1, 24, number).images[0]).save(file)
    found = dataset_images(tmp_path, Preprocessing(48, 48, (0.5,) * 3, (0.25,) * 3), 3)
    assert found.images.shape == (3, 48, 48, 3)
    assert found.source == f"{tmp_path.name}, scaled from 24 to 48 pixels"
    with pytest.raises(DataError, match="has 4 images, and 5 are needed"):
        dataset_images(tmp_path, Preprocessing(24, 24, (0.5,) * 3, (0.25,) * 3), 5)


def test_drawn_images_say_so():
    assert isinstance(SIXTEEN, Images)
    assert SIXTEEN.source == "1/f noise"
    assert SIXTEEN.images.dtype == np.uint8


def test_images_come_from_an_archive_too(tmp_path):
    archive = tmp_path / "photos.tar"
    with tarfile.open(archive, "w") as tar:
        for number in range(4):
            file = tmp_path / f"{number}.png"
            Image.fromarray(noise_images(1, 24, number).images[0]).save(file)
            tar.add(file, f"train/a/{number}.png")
    found = dataset_images(archive, Preprocessing(24, 24, (0.5,) * 3, (0.25,) * 3), 3)
    assert found.images.shape == (3, 24, 24, 3)


def test_a_damaged_archive_is_named(tmp_path):
    archive = tmp_path / "photos.tar.gz"
    archive.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"photos\.tar\.gz"):
        dataset_images(archive, Preprocessing(24, 24, (0.5,) * 3, (0.25,) * 3), 3)
