"""Folders of models: what lies in them, whether that has changed, and which names cannot be looked into now.

A model is ``<name>/bundle.json``, whose version is the bundle's own, or ``<name>/<version>/bundle.json``. Everything
else is left alone: files, folders without a bundle, and whatever is hidden, as editors, notebooks and the volumes of
Kubernetes (``..data``) make it.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lccl.errors import BundleError

FILES = ("bundle.json", "model.safetensors", "int8.safetensors", "model.sig")
UNREADABLE = "unreadable"  # the version of a bundle whose description cannot be read
Key = tuple[str, str]
Stamp = tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class Look:
    """What was found in the folders.

    Attributes:
        homes: where each version lies; of several places the one in the folder that was named first.
        unsure: names of which more versions may be there than were found.
        unreadable: folders of which nothing is known now.
        covered: versions that a folder named earlier has too.

    """

    homes: dict[Key, Path] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)
    unreadable: list[Path] = field(default_factory=list)
    covered: list[Path] = field(default_factory=list)


def look(*folders: Path) -> Look:
    """Find all versions of all models.

    Raises:
        OSError: none of the folders can be read, or is there.

    """
    together = Look()
    for folder in folders:
        try:
            found = _look_into_folder(folder)
        except OSError:
            together.unreadable.append(folder)
            if len(together.unreadable) == len(folders):
                raise
            continue
        for key, home in found.homes.items():
            if key in together.homes:
                together.covered.append(home)
            elif key[0] not in together.unsure:
                together.homes[key] = home
        together.unsure |= found.unsure
    return together


def _look_into_folder(folder: Path) -> Look:
    found = Look()
    for model in _folders(folder):
        try:
            _look_into(model, found)
        except OSError:
            found.unsure.add(model.name)
    return found


def _look_into(model: Path, found: Look) -> None:
    if _has_bundle(model):
        version = _own_version(model)
        found.homes[model.name, version] = model
        if version == UNREADABLE:
            found.unsure.add(model.name)
    for home in _folders(model):
        try:
            if _has_bundle(home):
                found.homes[model.name, home.name] = home
        except OSError:
            found.unsure.add(model.name)


def stamp(home: Path) -> Stamp:
    """Different whenever a file of a bundle may have been written, replaced, or made readable."""
    return tuple(_file_stamp(home / name) for name in FILES)


def _file_stamp(file: Path) -> tuple[int, ...]:
    try:
        seen = file.stat()
    except OSError as error:
        return (error.errno or 0,)
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def _folders(folder: Path) -> Iterator[Path]:
    """The folders in a folder that are not hidden, in the order of their names."""
    with os.scandir(folder) as entries:
        found = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    yield from (folder / name for name in found if _may_be_folder(folder / name))


def _may_be_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # looking into it will fail too, and the others are not to suffer from it
        return True


def _has_bundle(home: Path) -> bool:
    try:
        return stat.S_ISREG((home / FILES[0]).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _own_version(home: Path) -> str:
    from lccl.bundle.format import version_of

    try:
        return version_of(home)
    except BundleError:
        return UNREADABLE
