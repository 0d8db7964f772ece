"""Encoded images that lie in a store elsewhere: listed once, then each read when its turn comes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from lccl.data.files import IMAGES
from lccl.errors import DataError

TIMES = {"connect_timeout": 10, "read_timeout": 60, "retries": {"mode": "standard", "total_max_attempts": 5}}
TRIES, PAUSE_S = 3, 1.0  # beside those of the store's package, which does not repeat what breaks off in the middle
Entry = tuple[str, int, str]  # a file's name below what was asked for, its bytes, and what changes with its content
Fetch = Callable[[str], bytes]


@dataclass(frozen=True, eq=False)
class StoredFiles:
    """Encoded images of a store, by number.

    Attributes:
        names: below the URL that was asked for; with ``/``.
        stamp: what the files are: where they lie, their names, sizes and tags, hashed.

    """

    url: str
    names: tuple[str, ...]
    stamp: str
    fetch: Fetch

    def __len__(self) -> int:
        return len(self.names)

    def read(self, number: int) -> bytes:
        """One file's bytes; any thread may ask.

        Raises:
            FileNotFoundError: it has gone, or is another one than it was when it was listed.
            DataError: the store does not answer.

        """
        name, tries = self.names[number], 0
        while True:
            try:
                return self.fetch(name)
            except FileNotFoundError:
                raise
            except Exception as error:
                tries += 1
                if tries == TRIES:
                    raise DataError(f"{name} in {self.url} cannot be read now: {error}") from error
                time.sleep(PAUSE_S)


def is_stored(text: str) -> bool:
    """Whether a text is the URL of a store, and no path."""
    return "://" in text


def list_stored(url: str) -> StoredFiles:
    """The images below a URL: ``s3://bucket/prefix``, or what fsspec reaches, as ``hf://datasets/owner/name@revision``.

    Credentials come from the store's usual settings.

    Raises:
        DataError: it cannot be listed, its package is missing, or the URL has a user, a password or a query.

    """
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise DataError(
            "a URL of images has no password and no query: credentials come from the store's usual settings"
        )
    listed: tuple[Iterator[Entry], Fetch]
    try:
        listed = _bucket(parts.netloc, parts.path.strip("/")) if parts.scheme == "s3" else _file_system(url)
        found = sorted(
            (entry for entry in listed[0] if PurePosixPath(entry[0]).suffix.lower() in IMAGES),
            key=lambda entry: entry[0].split("/"),
        )
    except ImportError as error:
        raise DataError(f"{url} needs a package that is not installed: {error}") from error
    except Exception as error:
        raise DataError(f"{url} cannot be listed: {error}") from error
    stamp = hashlib.sha256(url.encode())
    for name, size, tag in found:
        stamp.update(f"{name}\0{size} {tag}\n".encode())
    return StoredFiles(url, tuple(name for name, _, _ in found), stamp.hexdigest(), listed[1])


def _bucket(bucket: str, prefix: str) -> tuple[Iterator[Entry], Fetch]:
    """A prefix of a bucket, by boto3."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import ClientError
    except ImportError:
        raise ImportError("pip install 'lccl[s3]'") from None
    client = boto3.client("s3", config=Config(**TIMES))
    root, tags = f"{prefix}/" if prefix else "", dict[str, str]()

    def entries() -> Iterator[Entry]:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=root):
            for entry in page.get("Contents", ()):
                name = entry["Key"].removeprefix(root)
                tags[name] = entry["ETag"]
                yield name, entry["Size"], entry["ETag"]

    def fetch(name: str) -> bytes:
        try:
            answer = client.get_object(Bucket=bucket, Key=root + name, IfMatch=tags[name])
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 412):
                raise FileNotFoundError("it has changed or gone since it was listed") from error
            raise
        content: bytes = answer["Body"].read()
        return content

    return entries(), fetch


def _file_system(url: str) -> tuple[Iterator[Entry], Fetch]:
    """Whatever fsspec reaches, with the package that its protocol needs."""
    from fsspec.core import url_to_fs

    system, root = url_to_fs(url)
    root = root.rstrip("/")
    found = system.find(root, detail=True)

    def entries() -> Iterator[Entry]:
        for path, known in found.items():
            tag = known.get("ETag") or known.get("blob_id") or known.get("mtime") or known.get("created") or ""
            yield path.removeprefix(root).lstrip("/"), known.get("size") or 0, str(tag)

    def fetch(name: str) -> bytes:
        content: bytes = system.cat_file(f"{root}/{name}")
        return content

    return entries(), fetch
