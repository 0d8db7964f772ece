"""Every layout of a data set gives the same images and labels, damage is named, and held-out parts are fixed."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from lccl.data import load_dataset
from lccl.errors import DataError
from lccl.preprocessing import Preprocessing

HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SMALL = Preprocessing(32, 32, *HALVES)


def noise(count, seed=0, size=32):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def encoded(pixels, kind="PNG"):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def records(images, *labels):
    """CIFAR's binary records: the label bytes, then the planes R, G, B."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([np.array(labels, dtype=np.uint8).T, planes], axis=1).tobytes()


# CIFAR's binary layout


def test_cifar_10(tmp_path):
    first, second, test = noise(3, 1), noise(2, 2), noise(2, 3)
    (tmp_path / "data_batch_1.bin").write_bytes(records(first, [0, 9, 4]))
    (tmp_path / "data_batch_2.bin").write_bytes(records(second, [1, 2]))
    (tmp_path / "test_batch.bin").write_bytes(records(test, [3, 3]))
    (tmp_path / "batches.meta.txt").write_text("airplane automobile bird cat deer dog frog horse ship truck\n\n")
    data = load_dataset(tmp_path, SMALL)
    assert np.array_equal(data.train.images, np.concatenate([first, second]))
    assert data.train.labels.tolist() == [0, 9, 4, 1, 2]
    assert np.array_equal(data.test.images, test)
    assert data.test.labels.tolist() == [3, 3]
    assert (data.classes[3], len(data.classes)) == ("cat", 10)


def test_cifar_100_takes_the_fine_label(tmp_path):
    images = noise(3)
    (tmp_path / "train.bin").write_bytes(records(images, [19, 0, 5], [99, 0, 42]))
    (tmp_path / "test.bin").write_bytes(records(images[:1], [7], [50]))
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"fine_{number}" for number in range(100)))
    data = load_dataset(tmp_path, SMALL)
    assert data.train.labels.tolist() == [99, 0, 42]
    assert data.test.labels.tolist() == [50]
    assert np.array_equal(data.train.images, images)
    assert data.classes[42] == "fine_42"


def test_cifar_without_names_or_test_images(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(records(noise(2), [0, 9]))
    data = load_dataset(tmp_path, SMALL)
    assert data.classes == tuple("0123456789")
    assert len(data.test) == 0
    assert data.test.images.shape == (0, 32, 32, 3)


def test_cifar_is_scaled_for_a_larger_network(tmp_path):
    images = noise(2)
    (tmp_path / "data_batch_1.bin").write_bytes(records(images, [0, 9]))
    large = Preprocessing(56, 64, *HALVES)
    data = load_dataset(tmp_path, large)
    assert np.array_equal(data.train.images, [large.apply(Image.fromarray(image)) for image in images])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (records(noise(2), [0, 1])[:-1], "damaged: 6145 bytes are no whole number of 3073-byte records"),
        (b"", "damaged"),
        (records(noise(2), [0, 10]), "damaged: label 10 of 10 classes"),
        (records(noise(2), [255, 0]), "damaged: label 255"),
    ],
)
def test_damaged_cifar_records_are_refused(tmp_path, content, match):
    (tmp_path / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(DataError, match=match):
        load_dataset(tmp_path, SMALL)


def test_a_wrong_number_of_class_names_is_refused(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(records(noise(1), [0]))
    (tmp_path / "batches.meta.txt").write_text("cat dog")
    with pytest.raises(DataError, match="names 2 classes, not 10"):
        load_dataset(tmp_path, SMALL)


# class folders, and archives of them

FILES = {
    "train/cat/a.png": encoded(noise(1, 1)[0]),
    "train/cat/b.PNG": encoded(noise(1, 2)[0]),
    "train/dog/a.png": encoded(noise(1, 3)[0]),
    "test/dog/z.bmp": encoded(noise(1, 4)[0], "BMP"),
    "train/dog/notes.txt": b"not an image",
    "README.png": b"nor this: it lies in no part",
}


def write_folder(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_archive(file, files, prefix=""):
    kind = file.suffix.removeprefix(".").replace("tgz", "gz")
    with tarfile.open(file, "w:" + kind.replace("tar", "")) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def check_files(data):
    assert data.classes == ("cat", "dog")
    images = {image.tobytes(): label for image, label in zip(data.train.images, data.train.labels, strict=True)}
    assert images == {noise(1, 1)[0].tobytes(): 0, noise(1, 2)[0].tobytes(): 0, noise(1, 3)[0].tobytes(): 1}
    assert np.array_equal(data.test.images, noise(1, 4))
    assert data.test.labels.tolist() == [1]


def test_class_folders(tmp_path):
    check_files(load_dataset(write_folder(tmp_path, FILES), SMALL))


@pytest.mark.parametrize("prefix", ["", "./", "cifar/"])
@pytest.mark.parametrize("name", ["data.tar", "data.tar.xz", "data.tar.gz", "data.tgz", "data.tar.bz2"])
def test_archives_of_class_folders(tmp_path, name, prefix):
    check_files(load_dataset(write_archive(tmp_path / name, FILES, prefix), SMALL))


@pytest.mark.parametrize("part", ["test", "val", "validation"])
def test_names_of_the_test_part(tmp_path, part):
    files = {"train/cat/a.png": FILES["train/cat/a.png"], f"{part}/cat/b.png": FILES["train/cat/b.PNG"]}
    data = load_dataset(write_folder(tmp_path, files), SMALL)
    assert np.array_equal(data.train.images, noise(1, 1))
    assert np.array_equal(data.test.images, noise(1, 2))


def test_a_set_without_test_images(tmp_path):
    data = load_dataset(write_folder(tmp_path, {"train/cat/a.png": FILES["train/cat/a.png"]}), SMALL)
    assert len(data.test) == 0


def test_images_of_any_size_are_brought_to_the_networks(tmp_path):
    data = load_dataset(write_folder(tmp_path, {"train/cat/a.png": encoded(noise(1, size=100)[0])}), SMALL)
    assert np.array_equal(data.train.images[0], SMALL.apply(Image.fromarray(noise(1, size=100)[0])))


def test_links_in_an_archive_are_not_followed(tmp_path):
    file = write_archive(tmp_path / "data.tar", {"train/cat/a.png": FILES["train/cat/a.png"]})
    with tarfile.open(file, "a") as archive:
        link = tarfile.TarInfo("train/dog/b.png")
        link.type, link.linkname = tarfile.SYMTYPE, "../cat/a.png"
        archive.addfile(link)
    assert load_dataset(file, SMALL).classes == ("cat",)


@pytest.mark.parametrize(
    "content", [b"", b"not an image", encoded(noise(1)[0])[:200], encoded(noise(1)[0], "JPEG")[:100]]
)
def test_a_damaged_image_is_named_and_skipped(tmp_path, content):
    data = load_dataset(write_folder(tmp_path, FILES | {"train/dog/x.png": content, "test/cat/y.png": content}), SMALL)
    check_files(data)
    assert [line.split(" (")[0] for line in data.skipped] == ["test/cat/y.png", "train/dog/x.png"]
    assert not any("object at 0x" in line for line in data.skipped)  # it would differ from run to run
    assert data.in_order_of(("dog", "cat")).skipped == data.skipped


def test_an_image_that_claims_to_be_huge_is_named(tmp_path):
    content = bytearray(encoded(noise(1)[0], "BMP"))
    content[18:26] = (60_000).to_bytes(4, "little") * 2
    with pytest.raises(DataError, match=r"of 1 files none can be read, the first being train/dog/x\.bmp \(.*too many"):
        load_dataset(write_folder(tmp_path, {"train/dog/x.bmp": bytes(content)}), SMALL)


def test_folders_without_parts_are_classes_to_train_on(tmp_path):
    files = {name.replace("train/", "mine/"): content for name, content in FILES.items() if "test/" not in name}
    data = load_dataset(write_folder(tmp_path, files), SMALL)
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.test)) == (3, 0)
    with pytest.raises(DataError, match="no images under"):
        load_dataset(write_folder(tmp_path / "x", {"test/cat/a.png": FILES["train/cat/a.png"]}), SMALL)


def test_a_class_that_train_lacks_is_refused(tmp_path):
    files = FILES | {"test/emu/a.png": FILES["train/cat/a.png"]}
    with pytest.raises(DataError, match="test has classes that train lacks: emu"):
        load_dataset(write_folder(tmp_path, files), SMALL)


@pytest.mark.parametrize("name", ["data.tar", "data.tar.xz", "data.tar.gz", "data.tar.bz2"])
@pytest.mark.parametrize("damage", ["empty", "foreign", "truncated", "flipped"])
def test_a_damaged_archive_is_refused(tmp_path, name, damage):
    images = {f"train/cat/{number}.bmp": encoded(noise(1, number)[0] & 3, "BMP") for number in range(20)}
    file = write_archive(tmp_path / name, images)
    content = bytearray(file.read_bytes())
    middle = content.index(b"train/cat/9.bmp") if name == "data.tar" else len(content) // 2
    if damage == "flipped":
        content[middle : middle + 600] = bytes(byte ^ 0xFF for byte in content[middle : middle + 600])
    file.write_bytes({"empty": b"", "foreign": b"x" * 5000, "truncated": content[: middle + 700]}.get(damage, content))
    with pytest.raises(DataError):
        load_dataset(file, SMALL)


def test_an_unreadable_archive_is_refused(tmp_path, monkeypatch):
    file = write_archive(tmp_path / "data.tar", FILES)

    def refuse(*_, **__):
        raise PermissionError("not allowed")

    monkeypatch.setattr(tarfile, "open", refuse)
    with pytest.raises(DataError, match="not a readable archive: not allowed"):
        load_dataset(file, SMALL)


@pytest.mark.parametrize("name", ["missing", "data.zip", "."])
def test_a_place_without_a_data_set_is_refused(tmp_path, name):
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"train/<class>/<image>"):
        load_dataset(tmp_path / name, SMALL)
