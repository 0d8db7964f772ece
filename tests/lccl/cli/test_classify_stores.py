"""Classifying images of stores: a real server that speaks S3, and a file system of fsspec's."""

from __future__ import annotations

import csv

import fsspec
import pytest

from lccl.data import stores
from lccl.data.stores import list_stored
from lccl.errors import DataError
from tests.lccl.cli.commands import failed, lccl, succeeded

COUNT = 40


@pytest.fixture(scope="module")
def images(tmp_path_factory, draw_image):
    folder = tmp_path_factory.mktemp("images")
    for number in range(COUNT):
        file = folder / "ab"[number % 2] / f"{number:03}.jpg"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(draw_image("JPEG", size=(40 + number % 7, 33), seed=number))
    (folder / "a" / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    return folder


@pytest.fixture
def bucket(moto, images, monkeypatch, tmp_path):
    """A bucket's client; the images lie below ``photos`` in it, and one beside."""
    boto3 = pytest.importorskip("boto3", reason="boto3 is of the extra test")
    for name, value in {
        "AWS_ENDPOINT_URL_S3": f"http://{moto[0]}:{moto[1]}", "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "very-secret", "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="pictures")
    for file in images.rglob("*.*"):
        key = f"photos/{file.relative_to(images).as_posix()}"
        client.put_object(Bucket="pictures", Key=key, Body=file.read_bytes())
    client.put_object(Bucket="pictures", Key="photos-of-others/x.jpg", Body=b"x")
    yield client
    for entry in client.list_objects_v2(Bucket="pictures")["Contents"]:
        client.delete_object(Bucket="pictures", Key=entry["Key"])
    client.delete_bucket(Bucket="pictures")


@pytest.fixture
def command(models_folder, tmp_path):
    def run(given, out="answers.csv"):
        options = ("--bundle", models_folder / "small", "--out", tmp_path / out, "--threads", 1, "--engine", "cpu")
        return lccl("classify", given, *options)

    return run


def rows(file):
    with file.open(encoding="utf-8", newline="") as content:
        return list(csv.DictReader(content))


def test_a_bucket_is_answered_as_the_same_images_in_a_folder(bucket, images, command, tmp_path):
    succeeded(command(images, "folder.csv"))
    succeeded(command("s3://pictures/photos/", "bucket.csv"))
    answers = rows(tmp_path / "bucket.csv")
    assert len(answers) == COUNT + 1
    assert [{**row, "error": bool(row["error"])} for row in answers] == [
        {**row, "error": bool(row["error"])} for row in rows(tmp_path / "folder.csv")
    ]


def test_any_file_system_of_fsspec_will_do(images, command, tmp_path):
    system = fsspec.filesystem("memory")
    system.put(str(images), "/some/photos", recursive=True)
    try:
        succeeded(command("memory://some/photos"))
    finally:
        system.rm("/some", recursive=True)
    assert sorted(row["file"] for row in rows(tmp_path / "answers.csv")) == sorted(
        file.relative_to(images).as_posix() for file in images.rglob("*.*") if file.suffix != ".txt"
    )


def test_what_has_changed_since_it_was_listed_has_an_error_and_a_store_that_is_away_ends_the_job(bucket, monkeypatch):
    monkeypatch.setattr(stores, "PAUSE_S", 0.0)
    files = list_stored("s3://pictures/photos")
    bucket.put_object(Bucket="pictures", Key=f"photos/{files.names[0]}", Body=b"another")
    bucket.delete_object(Bucket="pictures", Key=f"photos/{files.names[1]}")
    for number in (0, 1):
        with pytest.raises(FileNotFoundError, match="changed or gone"):
            files.read(number)
    assert files.read(2)
    tries = []

    def breaks_off(name):
        tries.append(name)
        raise ConnectionResetError("reset")

    broken = stores.StoredFiles(files.url, files.names, files.stamp, breaks_off)
    with pytest.raises(DataError, match="cannot be read now: reset"):
        broken.read(2)
    assert len(tries) == stores.TRIES


def test_the_stamp_tells_whether_images_are_the_same(bucket):
    first = list_stored("s3://pictures/photos")
    assert list_stored("s3://pictures/photos").stamp == first.stamp
    bucket.put_object(Bucket="pictures", Key=f"photos/{first.names[0]}", Body=b"another")
    assert list_stored("s3://pictures/photos").stamp != first.stamp


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("s3://no-such-bucket/photos", "cannot be listed"),
        ("s3://pictures/nothing", "there are no images in s3://pictures/nothing"),
        ("s3://me:secret@pictures/photos", "a URL of images has no password and no query"),
        ("nowhere://photos", "cannot be listed: Protocol not known: nowhere"),
    ],
)
def test_what_cannot_be_listed_is_a_sentence(bucket, command, url, sentence):
    failed(command(url), sentence)
