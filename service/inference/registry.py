"""The models that are served: name and version → loaded bundle and engine; loading, swapping and unloading them.

A folder of models holds ``<name>/bundle.json``, whose version is the bundle's own, or ``<name>/<version>/bundle.json``.
Names from requests are only ever looked up among those found there; no path is made of them.
"""

import itertools
import logging
import math
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from lccl.errors import BundleError, LcclError
from lccl.request import QualityRequest, Resolution, resolve

from ..errors import ServiceError

if TYPE_CHECKING:
    from lccl.bundle.format import Bundle
    from lccl.engines.base import Engine

log = logging.getLogger(__name__)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESOLUTIONS = 1024  # remembered per model
State = Literal["READY", "LOADING", "UNAVAILABLE"]
Key = tuple[str, str]


@dataclass(slots=True, eq=False, weakref_slot=True)
class ServedModel:
    """A bundle and the engine that runs it, under the name and version that clients use.

    Attributes:
        bundle: with the operating points that were measured in the engine's precision.
        key: different for every load, also of the same name and version.
        self_test: logits at exact that the engine gave to the self-test's images, [images, classes].
        passed_at: monotone seconds when it passed its self-test last.
        dense_macs: the plain twin's, per image.
        resolve: :func:`lccl.request.resolve` with the model's table; what was asked before is remembered.

    """

    name: str
    version: str
    key: str
    bundle: "Bundle"
    engine: "Engine"
    self_test: NDArray[np.floating]
    passed_at: float = -math.inf
    dense_macs: int = field(init=False)
    resolve: Callable[[QualityRequest], Resolution] = field(init=False)

    def __post_init__(self) -> None:
        self.dense_macs = self.engine.shape.dense
        self.resolve = lru_cache(RESOLUTIONS)(partial(resolve, self.bundle.table))


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version in the folder of models, loaded or not, and why not."""

    name: str
    version: str
    state: State
    reason: str = ""


class Registry:
    """Loads bundles from one folder and finds them by name and version.

    Finding never waits. Loading and unloading do, one after the other; call them in a thread. A version is swapped
    in one step, once its successor has passed its self-test; batches of the old one that wait are still answered by it.

    Args:
        compile_bundle: makes the engine that runs a bundle.
        default: the model found without a name; without it the first by name.
        on_load: told of each model just before it is served, from the loading thread.
        on_unload: told of each that no longer is.

    """

    def __init__(
        self,
        folder: Path,
        compile_bundle: Callable[["Bundle"], "Engine"],
        default: str | None,
        on_load: Callable[[ServedModel], None],
        on_unload: Callable[[ServedModel], None],
    ) -> None:
        self._folder, self._compile, self._default = folder, compile_bundle, default
        self._on_load, self._on_unload = on_load, on_unload
        self._served: dict[Key, ServedModel] = {}  # ascending
        self._states: dict[Key, IndexEntry] = {}
        self._stamps: dict[Key, int] = {}
        self._serial = itertools.count(1)
        self._changing = threading.Lock()

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._served.values())

    def __len__(self) -> int:
        return len(self._served)

    def load_all(self) -> None:
        """Load every version of every model.

        Raises:
            BundleError: none there, one that cannot be used, a bad name, or no such default model.
            EngineError: the engine, device or precision is not to be had.

        """
        homes = self._homes()
        if not homes:
            raise BundleError(f"no bundles in {self._folder}: each is a folder with bundle.json and model.safetensors")
        for key in homes:
            self._load(key, homes[key])
        if self._default is not None and not self.versions(self._default):
            raise BundleError(f"the default model {self._default!r} is not among {self._names()}")

    def find(self, name: str | None, version: str | None = None) -> ServedModel:
        """The model of that name, for None the default one; of several versions the one asked for, or the highest.

        Raises:
            ServiceError, unknown_model: it is not loaded.

        """
        wanted = name if name is not None else self._default or next((model.name for model in self), "")
        versions = self.versions(wanted)
        if not versions:
            raise ServiceError(
                "unknown_model", f"no model {wanted[:64]!r} is served here; there is {self._names() or 'none'}"
            )
        for model in reversed(versions):
            if version in {None, model.version}:
                return model
        raise ServiceError(
            "unknown_model",
            f"{wanted} has no version {str(version)[:64]!r}; there is {', '.join(model.version for model in versions)}",
        )

    def versions(self, name: str) -> list[ServedModel]:
        """All loaded versions of a model, ascending."""
        return [model for model in self if model.name == name]

    def index(self) -> list[IndexEntry]:
        """Everything in the folder and everything loaded, with its state."""
        entries = {key: IndexEntry(*key, "UNAVAILABLE", "not loaded") for key in self._homes()} | self._states
        return [entries[key] for key in sorted(entries, key=_order)]

    def _names(self) -> str:
        return ", ".join(dict.fromkeys(model.name for model in self))

    def load(self, name: str, version: str | None = None) -> list[ServedModel]:
        """Load a version from the folder, or all of a model's; what is loaded already is read anew and swapped.

        Raises:
            ServiceError, unknown_model: the folder has none of that name and version.
            BundleError: it cannot be used; what was served before still is.

        """
        homes = self._homes()
        wanted = [key for key in homes if key[0] == name and version in {None, key[1]}]
        if not wanted:
            raise ServiceError("unknown_model", f"the folder of models has no {_called(name, version)}")
        return [self._load(key, homes[key]) for key in wanted]

    def unload(self, name: str, version: str | None = None) -> None:
        """Stop serving a version, or a model with all its versions.

        Raises:
            ServiceError, unknown_model: it is not loaded.

        """
        with self._changing:
            gone = [model for model in self.versions(name) if version in {None, model.version}]
            if not gone:
                raise ServiceError("unknown_model", f"{_called(name, version)} is not loaded")
            for model in gone:
                self._drop(model)

    def close(self) -> None:
        """Release all models, so that their memory is freed before the process ends."""
        with self._changing:
            self._served = {}

    def refresh(self) -> None:
        """Follow the folder: load what is new or changed, unload what is gone, keep what cannot be replaced."""
        homes = self._homes()
        for key, home in homes.items():
            if self._stamps.get(key) != _stamp(home):
                try:
                    self._load(key, home)
                except LcclError as error:
                    log.error("%s stays as it was: %s", _called(*key), error)
        for key in set(self._stamps) - set(homes):
            self._stamps.pop(key)
            if any(model.version == key[1] for model in self.versions(key[0])):
                self.unload(*key)

    def _load(self, key: Key, home: Path) -> ServedModel:
        with self._changing:
            old = self._served.get(key)
            self._stamps[key] = _stamp(home)
            if old is None:
                self._states[key] = IndexEntry(*key, "LOADING")
            try:
                model = self._make(*key, home)
                self._on_load(model)
            except LcclError as error:
                state: State = "UNAVAILABLE" if old is None else "READY"
                self._states[key] = IndexEntry(*key, state, f"cannot be loaded: {error}")
                raise
            served = self._served | {key: model}
            self._served = {one: served[one] for one in sorted(served, key=_order)}
            self._states[key] = IndexEntry(*key, "READY")
            if old is not None:
                self._on_unload(old)
            return model

    def _make(self, name: str, version: str, home: Path) -> ServedModel:
        from lccl.bundle.format import load
        from lccl.bundle.self_test import check

        for part in (name, version):
            if not NAME.fullmatch(part):
                raise BundleError(f"{part!r} is no model name or version: use letters, digits, '.', '_' and '-'")
        bundle = load(home)
        engine = self._compile(bundle)
        bundle = bundle.in_precision(engine.precision)
        self_test = check(engine, bundle)
        return ServedModel(name, version, f"{name}:{version}:{next(self._serial)}", bundle, engine, self_test)

    def _drop(self, model: ServedModel) -> None:
        self._served = {key: one for key, one in self._served.items() if one is not model}
        self._states[model.name, model.version] = IndexEntry(model.name, model.version, "UNAVAILABLE", "unloaded")
        self._on_unload(model)

    def _homes(self) -> dict[Key, Path]:
        """Where each version lies; a bundle whose description cannot be read has the version ``unreadable``."""
        found = sorted([*self._folder.glob("*/bundle.json"), *self._folder.glob("*/*/bundle.json")])
        return {
            (home.name, _own_version(home)) if home.parent == self._folder else (home.parent.name, home.name): home
            for home in (file.parent for file in found)
        }


def _own_version(home: Path) -> str:
    from lccl.bundle.format import version_of

    try:
        return version_of(home)
    except BundleError:
        return "unreadable"


def _stamp(home: Path) -> int:
    try:
        return (home / "bundle.json").stat().st_mtime_ns
    except OSError:
        return 0


def _order(key: Key) -> tuple[str, list[tuple[int, int, str]]]:
    """By name, then by version, in which whole numbers compare as numbers: 2 before 10, 1.2 before 1.10."""
    name, version = key
    parts = re.split(r"[._-]", version)
    return name, [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts]


def _called(name: str, version: str | None) -> str:
    return f"{name[:64]!r}" if version is None else f"{name[:64]!r} version {version[:64]!r}"
