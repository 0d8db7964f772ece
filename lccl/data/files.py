"""Where the encoded images of a data set lie: files of a folder, or stretches of an archive that is not compressed."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import tarfile
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lccl.errors import DataError

IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif"}
ARCHIVES = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".tar.bz2")
COMPRESSIONS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ": lzma.open, b"BZh": bz2.open}


@dataclass(frozen=True, eq=False)
class Files:
    """Encoded images, by number.

    Attributes:
        root: the folder, or the archive.
        names: relative to the folder, or inside the archive; with ``/``.
        stretches: in an archive where each begins and how many bytes it has, int64 [N, 2]; none in a folder.
        stamp: what the files are: their names, sizes and times of change, hashed.
        scratch: what removes an unpacked archive once nobody needs it.

    """

    root: Path
    names: tuple[str, ...]
    stamp: str
    stretches: NDArray[np.int64] | None = None
    scratch: Scratch | None = None

    def __len__(self) -> int:
        return len(self.names)

    def select(self, numbers: Sequence[int]) -> Files:
        """Some of them, in that order."""
        stretches = None if self.stretches is None else self.stretches[list(numbers)]
        return replace(self, names=tuple(self.names[number] for number in numbers), stretches=stretches)

    def read(self, number: int) -> bytes:
        """One file's bytes; any process may ask.

        Raises:
            OSError: it can no longer be read.

        """
        if self.stretches is None:
            return (self.root / self.names[number]).read_bytes()
        start, size = self.stretches[number]
        with self.root.open("rb") as archive:
            archive.seek(start)
            return archive.read(size)


class Scratch:
    """A folder that the process that made it removes when this object goes."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lccl-"))
        weakref.finalize(self, _remove, self.folder, os.getpid())


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a process that was forked has a copy of the object, and must leave the folder alone
        shutil.rmtree(folder, ignore_errors=True)


def list_files(path: Path, cache: Path | None = None) -> Files:
    """The images of a folder or of an archive.

    A compressed archive is unpacked first, once into ``cache``, or each time for as long as it is used.

    Raises:
        DataError: it is not readable.

    """
    try:
        return _of_archive(path, cache) if path.is_file() else _of_folder(path)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        kind = "archive" if path.is_file() else "folder"
        raise DataError(f"{path} is not a readable {kind}: {error}") from error


def _of_folder(folder: Path) -> Files:
    found = [Path(file).relative_to(folder).as_posix() for file in _images_under(str(folder))]
    found.sort(key=lambda name: name.split("/"))
    stamp = hashlib.sha256(str(folder.resolve()).encode())
    for name in found:
        try:
            known = os.stat(folder / name)
            stamp.update(f"{name}\0{known.st_size} {known.st_mtime_ns}\n".encode())
        except FileNotFoundError:  # a link to nothing; reading it will say so
            stamp.update(f"{name}\0missing\n".encode())
    return Files(folder, tuple(found), stamp.hexdigest())


def _images_under(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths of images in a folder and all below it; links are followed.

    Raises:
        OSError: a folder cannot be read, or a link leads back to a folder that it lies in.

    """
    real = os.path.realpath(folder)
    if real in above:
        raise OSError(f"{folder} leads back to {real}, in which it lies: remove that link")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _images_under(entry.path, (*above, real))
            elif PurePosixPath(entry.name).suffix.lower() in IMAGES and (entry.is_file() or entry.is_symlink()):
                yield entry.path


def _of_archive(path: Path, cache: Path | None) -> Files:
    known = path.stat()
    stamp = hashlib.sha256(f"{path.resolve()}\0{known.st_size} {known.st_mtime_ns}".encode()).hexdigest()
    plain, scratch = _unpacked(path, cache, stamp)
    names, stretches = [], []
    size = plain.stat().st_size
    for member in _members(plain):
        if member.offset_data + member.size > size:
            raise tarfile.ReadError("unexpected end of data")
        if PurePosixPath(member.name).suffix.lower() in IMAGES:
            names.append(member.name)
            stretches.append((member.offset_data, member.size))
    return Files(plain, tuple(names), stamp, np.array(stretches, dtype=np.int64).reshape(-1, 2), scratch)


def _members(plain: Path) -> Iterator[tarfile.TarInfo]:
    """Files of an uncompressed archive, links and holes left out."""
    with tarfile.open(plain) as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # it would keep them all
            if member.isfile() and not member.issparse():
                yield member
        if archive.fileobj is None or archive.fileobj.read(tarfile.RECORDSIZE).strip(b"\0"):
            raise tarfile.ReadError("a header is damaged")  # tarfile takes it for the end


def _unpacked(path: Path, cache: Path | None, stamp: str) -> tuple[Path, Scratch | None]:
    """The archive without its compression, and what removes that again."""
    with path.open("rb") as content:
        head = content.read(8)
    opened = next((opens for magic, opens in COMPRESSIONS.items() if head.startswith(magic)), None)
    if opened is None:
        return path, None
    scratch = None
    if cache is None:
        scratch = Scratch()
        target = scratch.folder / "images.tar"
    else:
        cache.mkdir(parents=True, exist_ok=True)
        target = cache / f"{stamp[:16]}.tar"
    if not target.is_file():
        fresh = target.with_suffix(f".{os.getpid()}.new")
        try:
            with opened(path) as source, fresh.open("wb") as unpacked:
                shutil.copyfileobj(source, unpacked, 1 << 20)
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)
    return target, scratch
