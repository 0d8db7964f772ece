"""Images larger than memory: decoded as serving does, cached, dealt by their files, and the same from any layout."""

import io
import os
import pickle
import subprocess
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lccl.data import hold_out, load_dataset
from lccl.data.images import FileImages
from lccl.errors import DataError
from lccl.preprocessing import Preprocessing

HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PHOTOGRAPHS = Preprocessing(64, 72, *HALVES, scaled=True)
COUNT = 24


def photograph(seed, width, height, kind="JPEG"):
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    out = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(out, kind)
    return out.getvalue()


CONTENTS = {
    f"{'test' if number % 6 == 0 else 'train'}/{'cat' if number % 2 else 'dog'}/{number:02}.jpg": photograph(
        number, 150 + 7 * number, 250 - 5 * number
    )
    for number in range(COUNT)
} | {"train/cat/wide.png": photograph(90, 400, 100, "PNG")}


@pytest.fixture
def folder(tmp_path):
    for name, content in CONTENTS.items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(content)
    return tmp_path / "photos"


@pytest.fixture(params=["photos.tar", "photos.tar.gz", "photos.tar.xz"])
def archive(request, folder):
    file = folder.parent / request.param
    with tarfile.open(file, f"w:{file.suffix[1:].replace('tar', '')}") as opened:
        opened.add(folder, ".")
    return file


def expected(split):
    """What serving makes of the files of a split."""
    assert isinstance(split.images, FileImages)
    names = [split.images.files.names[number].removeprefix("./") for number in split.images.numbers]
    return np.stack([PHOTOGRAPHS.decode(CONTENTS[name], 1 << 28) for name in names])


def same(first, second):
    """Two splits have the same images with the same labels, in whatever order."""
    pairs = [
        {image.tobytes(): label for image, label in zip(each.images[:], each.labels, strict=True)}
        for each in (first, second)
    ]
    return pairs[0] == pairs[1] and len(pairs[0]) == len(first)


def test_images_are_as_serving_sees_them(folder):
    data = load_dataset(folder, PHOTOGRAPHS)
    assert data.train.images.shape == (21, 64, 64, 3)
    assert np.array_equal(data.train.images, expected(data.train))
    assert np.array_equal(data.test.images[:], expected(data.test))


def test_they_are_indexed_like_an_array(folder):
    split = load_dataset(folder, PHOTOGRAPHS).train
    whole = split.images[:]
    assert np.array_equal(split.images[3], whole[3])
    assert np.array_equal(split.images[-2:], whole[-2:])
    assert np.array_equal(split.images[np.array([5, 2, 2])], whole[[5, 2, 2]])
    chosen = split.subset(np.array([4, 1, 7])).first(2)
    assert np.array_equal(chosen.images[:], whole[[4, 1]])
    assert np.array_equal(chosen.labels, split.labels[[4, 1]])
    assert np.array_equal(chosen.loaded().images, whole[[4, 1]])


@pytest.mark.parametrize("size", [1, 8, 21, 50])
def test_batches_cover_a_split_in_order(folder, size):
    split = load_dataset(folder, PHOTOGRAPHS).train
    for each in (split, split.loaded()):
        images, labels = zip(*each.batches(size), strict=True)
        assert max(map(len, images)) <= size
        assert np.array_equal(np.concatenate(images), split.images[:])
        assert np.array_equal(np.concatenate(labels), split.labels)
    assert list(split.first(0).batches(size)) == []


def test_an_archive_gives_the_same_images(folder, archive):
    plain, packed = load_dataset(folder, PHOTOGRAPHS), load_dataset(archive, PHOTOGRAPHS)
    assert same(plain.train, packed.train)
    assert same(plain.test, packed.test)


def test_what_an_archive_was_unpacked_to_is_removed_after_use(folder, archive):
    data = load_dataset(archive, PHOTOGRAPHS)
    root = data.train.images.files.root
    assert root.is_file()
    del data
    assert root.is_file() == (root == archive)


def test_other_processes_can_read_them(folder):
    images = load_dataset(folder, PHOTOGRAPHS).train.images
    assert np.array_equal(pickle.loads(pickle.dumps(images))[:], images[:])


# the cache


def test_a_cache_gives_the_same_images_and_is_not_filled_twice(folder, archive, tmp_path):
    told = []
    plain = load_dataset(archive, PHOTOGRAPHS)
    for _ in range(2):
        cached = load_dataset(archive, PHOTOGRAPHS, cache=tmp_path / "cache", progress=lambda *done: told.append(done))
        assert np.array_equal(cached.train.images, plain.train.images)
        assert hold_out(cached.train).digest == hold_out(plain.train).digest
        sources = [cached.train.images.source(number) for number in range(len(cached.train))]
        assert all(np.array_equal(pixels, plain.train.images.source(number)) for number, pixels in enumerate(sources))
    assert told == [(number + 1, COUNT + 1) for number in range(COUNT + 1)]


def test_cached_pixels_are_read_from_the_cache(folder, tmp_path):
    data = load_dataset(folder, PHOTOGRAPHS, cache=tmp_path / "cache")
    before = data.test.images[:]
    for file in folder.rglob("*.jpg"):
        file.unlink()
    assert np.array_equal(data.test.images[:], before)


def test_an_image_too_large_for_the_cache_is_decoded_each_time(tmp_path):
    (tmp_path / "photos/train/a").mkdir(parents=True)
    large = photograph(1, 900, 800, "PNG")
    (tmp_path / "photos/train/a/large.png").write_bytes(large)
    data = load_dataset(tmp_path / "photos", PHOTOGRAPHS, cache=tmp_path / "cache")
    assert sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*")) < 100_000
    assert np.array_equal(data.train.images[0], PHOTOGRAPHS.decode(large, 1 << 28))


def test_another_size_or_other_files_fill_the_cache_anew(folder, tmp_path):
    def entries():
        return {file.name for file in (tmp_path / "cache").iterdir() if file.is_dir()}

    cache = {"cache": tmp_path / "cache"}
    load_dataset(folder, PHOTOGRAPHS, **cache)
    first = entries()
    load_dataset(folder, replace(PHOTOGRAPHS, fit="stretch"), **cache)
    assert entries() == first
    load_dataset(folder, replace(PHOTOGRAPHS, resize=80), **cache)
    assert len(entries()) == 2
    (folder / "train/cat/new.jpg").write_bytes(photograph(99, 100, 100))
    assert len(load_dataset(folder, PHOTOGRAPHS, **cache).train) == 22
    assert len(entries()) == 3


def test_broken_files_are_remembered(folder, tmp_path):
    (folder / "train/cat/broken.jpg").write_bytes(photograph(1, 100, 100)[:300])
    names = [load_dataset(folder, PHOTOGRAPHS, cache=tmp_path / "cache").skipped for _ in range(2)]
    assert names[0] == names[1]
    assert names[0][0].startswith("train/cat/broken.jpg (")


def test_a_cache_that_cannot_be_written_is_named(folder):
    with pytest.raises(DataError, match="cannot be written"):
        load_dataset(folder, PHOTOGRAPHS, cache=folder / "train/cat/wide.png")


def test_a_damaged_cache_is_named(folder, tmp_path):
    cache = tmp_path / "cache"
    data = load_dataset(folder, PHOTOGRAPHS, cache=cache)
    (sources,) = cache.rglob("sources.bin")
    sources.write_bytes(sources.read_bytes()[:1000])
    with pytest.raises(DataError, match="can no longer be read"):
        data.train.images[:]
    (sources.parent / "digests.npy").write_bytes(b"")
    with pytest.raises(DataError, match="is damaged, remove it"):
        load_dataset(folder, PHOTOGRAPHS, cache=cache)


def test_a_file_that_goes_while_it_is_needed_is_named(folder):
    data = load_dataset(folder, PHOTOGRAPHS)
    (folder / "train/cat/01.jpg").unlink()
    with pytest.raises(DataError, match=r"train/cat/01\.jpg can no longer be read"):
        data.train.images[:]


# held-out parts


@pytest.mark.parametrize(
    "other",
    [replace(PHOTOGRAPHS, size=96, resize=110), replace(PHOTOGRAPHS, scaled=False), replace(PHOTOGRAPHS, fit="stretch"),
     Preprocessing(32, 32, *HALVES)],
)  # fmt: skip
def test_neither_size_nor_decoder_deal_the_parts_anew(folder, other):
    first, second = (hold_out(load_dataset(folder, each).train) for each in (PHOTOGRAPHS, other))
    assert (first.by, first.digest) == ("files", second.digest)
    assert [len(part) for part in (first.choose, first.measure)] == [2, 2]
    assert np.array_equal(first.choose.identities, second.choose.identities)


def test_other_bytes_for_the_same_pixels_are_another_file(folder):
    before = hold_out(load_dataset(folder, PHOTOGRAPHS).train)
    chosen = before.choose.images
    file = folder / chosen.files.names[chosen.numbers[0]]
    file.write_bytes(file.read_bytes() + b"\0")
    after = hold_out(load_dataset(folder, PHOTOGRAPHS).train)
    assert after.digest != before.digest


def test_bundles_from_before_deal_by_pixels(folder):
    train = load_dataset(folder, PHOTOGRAPHS).train
    old = hold_out(replace(train.loaded(), identities=None))
    again = hold_out(train, by="pixels")
    assert (again.by, again.digest) == ("pixels", old.digest)
    assert np.array_equal(again.measure.images[:], old.measure.images)
    assert hold_out(train).digest != old.digest


# memory

BOUND = """
import resource, sys
from pathlib import Path
from lccl.data import hold_out, load_dataset
from lccl.preprocessing import Preprocessing

load_dataset(Path(sys.argv[2]), Preprocessing(224, 224, (.5, .5, .5), (.5, .5, .5), scaled=True)).train.images[:64]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = load_dataset(Path(sys.argv[1]), Preprocessing(224, 224, (.5, .5, .5), (.5, .5, .5), scaled=True))
seen = sum(len(labels) for _, labels in data.train.batches(64))
print(seen, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_memory_does_not_grow_with_the_images(tmp_path):
    """1,200 images of 224 × 224 would take 181 MB; on top of the first 64 they take next to nothing."""
    for number in range(16):
        (tmp_path / f"{number}.jpg").write_bytes(photograph(number, 224, 224))
    for name, count in (("many", 1200), ("few", 64)):
        (tmp_path / name / "train/a").mkdir(parents=True)
        for number in range(count):
            os.link(tmp_path / f"{number % 16}.jpg", tmp_path / name / f"train/a/{number}.jpg")
    command = [sys.executable, "-c", BOUND, str(tmp_path / "many"), str(tmp_path / "few")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seen, grown = map(int, done.stdout.split())
    assert seen == 1200
    assert grown < 60
