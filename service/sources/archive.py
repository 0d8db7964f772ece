"""An archive behind HTTPS: brought, compared with its digest, and unpacked as far as it holds bundles."""

import hashlib
import http.client
import netrc
import shutil
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from base64 import b64encode
from collections.abc import Iterator
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any
from urllib.parse import SplitResult, unquote, urlsplit

from .cache import DEEPEST, MOST_BYTES, NAME, RemoteFile, SourceError, remove
from .download import MIB, Stream, download
from .location import Archive, redacted

TIMEOUT_S = 30.0  # without a byte
MOST_MEMBERS = 10_000
UNREADABLE = (tarfile.TarError, zipfile.BadZipFile, LZMAError, zlib.error, EOFError, OSError, RuntimeError, ValueError)


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *given: Any) -> urllib.request.Request | None:
        if urlsplit(given[-1]).scheme != "https":
            raise SourceError(f"it redirects to {redacted(given[-1])}, which is not https")
        return super().redirect_request(*given)


def fetch(location: Archive, folder: Path) -> list[RemoteFile]:
    """Bring the archive and unpack it to ``folder/tree``; the files there.

    Raises:
        SourceError: it has another digest, is no archive, or is too large.
        ConnectionError, OSError: it cannot be had, or not be written.

    """
    file = folder / "archive"
    resumed = file.exists()
    download(file, str(location), MOST_BYTES, lambda start: _open(location, start))
    if _digest(file) != location.sha256:
        file.unlink()
        if resumed:  # the rest was of another file than its beginning
            return fetch(location, folder)
        raise SourceError(f"{location} is not the archive that the digest names")
    tree = folder / "tree"
    remove(tree)
    try:
        return list(_unpack(location, file, tree))
    except UNREADABLE as error:
        raise SourceError(f"{location} is no readable archive: {error}") from error


def _open(location: Archive, start: int) -> Stream:
    parts = urlsplit(location.url)
    request = urllib.request.Request(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
    if (credentials := _credentials(parts)) is not None:
        request.add_unredirected_header("Authorization", credentials)  # another host does not get it
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        answer = urllib.request.build_opener(_OnlyHttps).open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # all of it is here
            return Stream(start, None, iter(()))
        if error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise SourceError(f"{location} answers {error.code} {error.reason}") from None
        raise ConnectionError(f"it answers {error.code} {error.reason}") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise ConnectionError(redacted(str(getattr(error, "reason", error)))) from None
    start = start if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
    length = answer.headers["Content-Length"]
    return Stream(start, start + int(length) if length and length.isdecimal() else None, _chunks(answer))


def _chunks(answer: IO[bytes]) -> Iterator[bytes]:
    with answer:
        try:
            while chunk := answer.read(MIB):
                yield chunk
        except (http.client.HTTPException, OSError) as error:
            raise ConnectionError(str(error)) from error


def _credentials(parts: SplitResult) -> str | None:
    """From the URL, else from ``~/.netrc``."""
    if parts.username:
        user, password = unquote(parts.username), unquote(parts.password or "")
    else:
        try:
            known = netrc.netrc().hosts.get(parts.hostname or "")
        except (OSError, netrc.NetrcParseError, RuntimeError):
            known = None
        if known is None:
            return None
        user, _, password = known
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _unpack(location: Archive, file: Path, tree: Path) -> Iterator[RemoteFile]:
    """Write the files that may belong to a bundle. No path of the archive is used but those made of plain names."""
    members = _zip_members if zipfile.is_zipfile(file) else _tar_members
    left = MOST_BYTES
    for number, (path, size, content) in enumerate(members(file)):
        left -= size
        if number >= MOST_MEMBERS or left < 0:
            raise SourceError(f"{location} holds more than {MOST_MEMBERS:,} files, or than {MOST_BYTES >> 30} GiB")
        names = path.removeprefix("./").split("/")
        if content is None or len(names) > DEEPEST or not all(map(NAME.fullmatch, names)):
            continue
        target = tree.joinpath(*names)
        target.parent.mkdir(parents=True, exist_ok=True)
        with content, target.open("xb") as out:
            shutil.copyfileobj(content, out, MIB)
        inside = "/".join(names)
        yield RemoteFile(inside, target.stat().st_size, f"{location.sha256}/{inside}")


Member = tuple[str, int, IO[bytes] | None]


def _tar_members(file: Path) -> Iterator[Member]:
    with tarfile.open(file, "r:*") as archive:
        for member in archive:
            yield member.name, member.size, archive.extractfile(member) if member.isreg() else None


def _zip_members(file: Path) -> Iterator[Member]:
    """Members never give more bytes than their headers say: zipfile stops there, and checks their sum."""
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            is_plain = not member.is_dir() and not stat.S_ISLNK(member.external_attr >> 16)
            yield member.filename, member.file_size, archive.open(member) if is_plain else None
