"""One source's folder in the cache: bundles that never change, what is still coming, and which are current.

    lock                    held by the process that fetches
    partial/<id>/           a bundle that is on its way, kept after a break
    bundles/<id>/           whole bundles, read-only
    views/<id>/             folders of models: <name>/<file> or <name>/<version>/<file>, links into bundles/
    current                 a link to a view, replaced in one step

A bundle that stays the same in the next view stays the same files, so that it is not loaded again.
"""

import hashlib
import logging
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lccl.errors import LcclError

log = logging.getLogger(__name__)
DESCRIPTION = "bundle.json"
DEEPEST = 3  # <name>/<version>/<file>
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of models, versions and files
MOST_FILES = 64  # in a bundle
MOST_BYTES = 16 << 30  # of a bundle, or of an archive's contents
LOCK_S = 900.0  # that another process may take to fetch


class SourceError(LcclError):
    """A source that cannot be used now. Its text has no secrets."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a source.

    Attributes:
        path: below the source's root, with ``/``.
        tag: changes whenever its content does.

    """

    path: str
    size: int
    tag: str


def find_bundles(files: Iterable[RemoteFile], own_name: str) -> dict[str, list[RemoteFile]]:
    """The bundles among files: ``name`` or ``name/version`` → its files; one at the root has the source's name.

    Subfolders of a bundle, hidden files and whatever has a name that no model has are left out.
    """
    folders: dict[str, list[RemoteFile]] = {}
    for file in files:
        names = file.path.split("/")
        if len(names) <= DEEPEST and all(map(NAME.fullmatch, names)):
            folders.setdefault("/".join(names[:-1]), []).append(file)
    bundles: dict[str, list[RemoteFile]] = {}
    for folder, members in sorted(folders.items()):  # the root first, before a folder that is called like it
        if any(file.path.rpartition("/")[2] == DESCRIPTION for file in members):
            bundles.setdefault(folder or own_name, sorted(members, key=lambda file: file.path))
    return bundles


def bundle_id(files: Iterable[RemoteFile]) -> str:
    """Names the content of a bundle's files.

    Raises:
        SourceError: they are too many, or too large.

    """
    known = [(file.path.rpartition("/")[2], file.size, file.tag) for file in files]
    if len(known) > MOST_FILES or sum(size for _, size, _ in known) > MOST_BYTES:
        raise SourceError(f"a bundle has at most {MOST_FILES} files and {MOST_BYTES >> 30} GiB")
    return hashlib.sha256(repr(known).encode()).hexdigest()[:32]


class SourceCache:
    """See the module."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.current = folder / "current"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that changes this folder.

        Raises:
            SourceError: another one has been at it for a long time.
            OSError: the cache cannot be written.

        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with FileLock(self._folder / "lock", timeout=LOCK_S):
                if not self.current.exists():
                    self.show({})
                yield
        except Timeout:
            raise SourceError(f"another process has been fetching it for {LOCK_S:g} s") from None

    def shown(self) -> dict[str, str]:
        """The current places, each with the id of its bundle."""
        places = {}
        for description in [*self.current.glob(f"*/{DESCRIPTION}"), *self.current.glob(f"*/*/{DESCRIPTION}")]:
            place = description.parent.relative_to(self.current).as_posix()
            places[place] = Path(os.readlink(description)).parent.name
        return places

    def has(self, bundle: str) -> bool:
        return (self._folder / "bundles" / bundle).is_dir()

    def partial(self, bundle: str) -> Path:
        """Where a bundle's files are brought to; what lies there is what an earlier try brought."""
        folder = self._folder / "partial" / bundle
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def add(self, bundle: str) -> None:
        """Take a partial bundle over, if its own hashes say that it is whole; else it is thrown away.

        Raises:
            BundleError: it is damaged.

        """
        from lccl.bundle.format import check_files

        partial = self.partial(bundle)
        try:
            check_files(partial)
        except LcclError:
            remove(partial)
            raise
        for file in partial.iterdir():
            if file.is_dir():
                remove(file)
            else:
                file.chmod(0o444)
        target = self._folder / "bundles" / bundle
        target.parent.mkdir(exist_ok=True)
        partial.rename(target)
        target.chmod(0o555)

    def show(self, places: Mapping[str, str]) -> None:
        """Make these places current, in one step."""
        key = hashlib.sha256(repr(sorted(places.items())).encode()).hexdigest()[:16]
        view = self._folder / "views" / key
        if not view.is_dir():
            fresh = view.with_name(f"{key}.new")
            remove(fresh)
            fresh.mkdir(parents=True)
            for place, bundle in places.items():
                home = fresh / place
                home.mkdir(parents=True, exist_ok=True)
                back = "/".join([".."] * (place.count("/") + 3))
                for file in sorted((self._folder / "bundles" / bundle).iterdir()):
                    (home / file.name).symlink_to(f"{back}/bundles/{bundle}/{file.name}")
            fresh.rename(view)
        link = self._folder / "current.new"
        link.unlink(missing_ok=True)
        link.symlink_to(f"views/{key}")
        link.replace(self.current)

    def tidy(self, wanted: Iterable[str]) -> None:
        """Remove what is neither current nor wanted. What was current until now was left for those that read it."""
        keep = {*wanted, *self.shown().values(), Path(os.readlink(self.current)).name}
        for kind in ("views", "partial", "bundles"):
            for path in (self._folder / kind).glob("*"):
                if path.name not in keep:
                    remove(path)


def remove(folder: Path) -> None:
    """Remove a folder of ours, its read-only folders included."""
    for place, _, _ in os.walk(folder):
        os.chmod(place, stat.S_IRWXU)
    shutil.rmtree(folder, ignore_errors=True)
