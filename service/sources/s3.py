"""A prefix of a bucket: any store that speaks S3. Endpoint, region and credentials come from the usual AWS settings."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from .cache import DEEPEST, RemoteFile
from .download import MIB, Stream, download
from .location import Bucket

TIMES = {"connect_timeout": 10, "read_timeout": 30, "retries": {"mode": "standard", "total_max_attempts": 3}}


class BucketFiles:
    """The files below a prefix."""

    def __init__(self, location: Bucket) -> None:
        import boto3
        from botocore.config import Config

        self._location = location
        self._client: Any = boto3.client("s3", config=Config(**TIMES))

    def listing(self) -> Iterator[RemoteFile]:
        """All of them, without those of folders too deep for a model."""
        root = f"{self._location.prefix}/" if self._location.prefix else ""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._location.bucket, Prefix=root)
        for page in pages:
            for entry in page.get("Contents", ()):
                path = entry["Key"].removeprefix(root)
                if path.count("/") < DEEPEST:
                    yield RemoteFile(path, entry["Size"], entry["ETag"])

    def download(self, file: RemoteFile, target: Path) -> None:
        """Bring a file as it was when it was listed.

        Raises:
            SourceError, botocore's exceptions, ConnectionError: it has changed since, or cannot be had.

        """
        key = f"{self._location.prefix}/{file.path}".lstrip("/")
        if file.size == 0 or (target.exists() and target.stat().st_size == file.size):
            target.touch()
            return
        download(target, f"{self._location}/{file.path}", file.size, partial(self._open, key, file))

    def _open(self, key: str, file: RemoteFile, start: int) -> Stream:
        wanted = {"Bucket": self._location.bucket, "Key": key, "IfMatch": file.tag}
        answer = self._client.get_object(**wanted, **({"Range": f"bytes={start}-"} if start else {}))
        return Stream(start, file.size, _chunks(answer["Body"]))


def _chunks(body: Any) -> Iterator[bytes]:
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    try:
        yield from body.iter_chunks(MIB)
    except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError) as error:
        raise ConnectionError(str(error)) from error
