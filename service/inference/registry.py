"""The models that are served: name and version → loaded bundle and engine; loading, swapping and unloading them.

Names from requests are only ever looked up among those found in the folders of models; no path is made of them.
"""

import itertools
import logging
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from lccl.errors import BundleError, LcclError
from lccl.request import QualityRequest, Resolution, resolve

from ..errors import ServiceError, SignatureError
from .folder import Key, Look, Stamp, look, stamp

if TYPE_CHECKING:
    from lccl.bundle.format import Bundle
    from lccl.engines.base import Engine

log = logging.getLogger(__name__)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESOLUTIONS = 1024  # remembered per model
LOOKS = 2  # at the folder without a version, after which it is gone
State = Literal["READY", "LOADING", "UNAVAILABLE"]


@dataclass(slots=True, eq=False, weakref_slot=True)
class ServedModel:
    """A bundle and the engine that runs it, under the name and version that clients use.

    Attributes:
        bundle: with the operating points that were measured in the engine's precision.
        key: different for every load, also of the same name and version.
        self_test: logits at exact that the engine gave to the self-test's images, [images, classes].
        passed_at: monotone seconds when it passed its self-test last.
        retired: whether it is no longer served; batches that wait for it still are.
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
    retired: bool = False
    dense_macs: int = field(init=False)
    resolve: Callable[[QualityRequest], Resolution] = field(init=False)

    def __post_init__(self) -> None:
        self.dense_macs = self.engine.shape.dense
        self.resolve = lru_cache(RESOLUTIONS)(partial(resolve, self.bundle.table))


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version in the folders of models, loaded or not, and why not."""

    name: str
    version: str
    state: State
    reason: str = ""


class Registry:
    """Loads bundles from folders and finds them by name and version.

    Finding never waits. Loading and unloading do, one after the other; call them in a thread. A version is swapped
    in one step, once its successor has passed its self-test; batches of the old one that wait are still answered by it.

    Args:
        folders: of models; where two have the same version, the one named first counts.
        read: reads the bundle that is served under a name from its folder.
        compile_bundle: makes the engine that runs a bundle.
        default: the model found without a name; without it the first by name.
        on_load: told of each model just before it is served, from the loading thread.
        on_unload: told of each that no longer is.
        fetched: those of the folders that others fill: a model there that cannot be used does not end the start.

    """

    def __init__(
        self,
        folders: Sequence[Path],
        read: Callable[[str, Path], "Bundle"],
        compile_bundle: Callable[["Bundle"], "Engine"],
        default: str | None,
        on_load: Callable[[ServedModel], None],
        on_unload: Callable[[ServedModel], None],
        fetched: Sequence[Path] = (),
    ) -> None:
        self._folders, self._fetched, self._default = tuple(folders), tuple(fetched), default
        self._read_bundle, self._compile = read, compile_bundle
        self._on_load, self._on_unload = on_load, on_unload
        self._served: dict[Key, ServedModel] = {}  # ascending
        self._found: dict[tuple[str | None, str | None], ServedModel] = {}  # what was asked for, among these
        self._states: dict[Key, IndexEntry] = {}
        self._seen: dict[Key, tuple[Path, Stamp]] = {}  # what was read last, served or not
        self._missed: Counter[Key] = Counter()  # looks at the folder in a row that did not find it
        self._serial = itertools.count(1)
        self._changing, self._looking = threading.Lock(), threading.Lock()

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._served.values())

    def __len__(self) -> int:
        return len(self._served)

    def load_all(self) -> None:
        """Load every version of every model.

        Raises:
            BundleError: none there, one that cannot be used, a bad name, or no such default model. Bundles without the
                signature they need, and those that were fetched, are only told of while there are others.
            EngineError: the engine, device or precision is not to be had.

        """
        found = self._look()
        if not found.homes:
            folders = ", ".join(map(str, self._folders))
            raise BundleError(f"no bundles in {folders}: each is a folder with bundle.json and model.safetensors")
        for home in found.covered:
            log.warning("%s is not served: a folder or source that is named before has that version too", home)
        refused: LcclError | None = None
        for key, home in found.homes.items():
            try:
                self._load(key, home)
            except LcclError as error:
                if not isinstance(error, SignatureError) and not _lies_in(home, self._fetched):
                    raise
                refused = error
                log.error("%s is not served: %s", _called(*key), error)
        if refused is not None and not self._served:
            raise refused
        if self._default is not None and not self.versions(self._default):
            raise BundleError(f"the default model {self._default!r} is not among {self._names()}")

    def find(self, name: str | None, version: str | None = None) -> ServedModel:
        """The model of that name, for None the default one; of several versions the one asked for, or the highest.

        Raises:
            ServiceError, unknown_model: it is not loaded.
            ServiceError, unavailable: the default one is not, for now.

        """
        found = self._found
        model = found.get((name, version))
        if model is None:
            model = found[name, version] = self._find_default() if name is None else self._find_named(name, version)
        return model

    def _find_named(self, name: str, version: str | None) -> ServedModel:
        versions = self.versions(name)
        if not versions:
            raise ServiceError(
                "unknown_model", f"no model {name[:64]!r} is served here; there is {self._names() or 'none'}"
            )
        for model in reversed(versions):
            if version in {None, model.version}:
                return model
        raise ServiceError(
            "unknown_model",
            f"{name} has no version {str(version)[:64]!r}; there is {', '.join(model.version for model in versions)}",
        )

    @property
    def default(self) -> ServedModel | None:
        """The model found without a name; None while it is not loaded."""
        name = self._default or next((model.name for model in self), "")
        return next(reversed(self.versions(name)), None)

    def _find_default(self) -> ServedModel:
        model = self.default
        if model is None:
            what = f"the default model {self._default!r} is not" if self._default else "no model is"
            raise ServiceError("unavailable", f"{what} loaded now; there is {self._names() or 'none'}")
        return model

    def versions(self, name: str) -> list[ServedModel]:
        """All loaded versions of a model, ascending."""
        return [model for model in self if model.name == name]

    def index(self) -> list[IndexEntry]:
        """Everything in the folders and everything loaded, with its state."""
        entries = {key: IndexEntry(*key, "UNAVAILABLE", "not loaded") for key in self._look().homes} | self._states
        return [entries[key] for key in sorted(entries, key=_order)]

    def _look(self) -> Look:
        """Where each version lies; nothing where no folder can be read."""
        try:
            found = look(*self._folders)
        except OSError as error:
            log.warning("the folder of models cannot be read: %s", error)
            return Look()
        for folder in found.unreadable:
            log.warning("the folder of models %s cannot be read", folder)
        return found

    def _names(self) -> str:
        return ", ".join(dict.fromkeys(model.name for model in self))

    def load(self, name: str, version: str | None = None) -> list[ServedModel]:
        """Load a version from its folder, or all of a model's; what is loaded already is read anew and swapped.

        Raises:
            ServiceError, unknown_model: the folders have none of that name and version.
            BundleError: it cannot be used; what was served before still is.

        """
        homes = self._look().homes
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

    def served(self) -> list[tuple[str, str, str]]:
        """Name, version and digest of each model."""
        return [(model.name, model.version, model.bundle.digest) for model in self]

    def adopt(self, served: Sequence[tuple[str, str, str]]) -> None:
        """Serve what another registry of the same folders :meth:`served`, as far as it can be had."""
        wanted = {(name, version): digest for name, version, digest in served}
        own = {(name, version): digest for name, version, digest in self.served()}
        for name, version in own.keys() - wanted.keys():
            self.unload(name, version)
        homes = self._look().homes
        for key in wanted.keys() & homes.keys():
            if own.get(key) != wanted[key]:
                self._try_to_load(key, homes[key])

    def close(self) -> None:
        """Release all models, so that their memory is freed before the process ends."""
        with self._changing:
            self._serve({})

    def refresh(self) -> None:
        """Follow the folders: load what is new or changed, unload what is gone, keep what cannot be replaced.

        What fails to load is tried again when its files change. What was not found is unloaded when the next look does
        not find it either; while its folder cannot be read, nobody knows, and it is not replaced from another either.
        """
        with self._looking:
            try:
                self._follow(look(*self._folders))
            except OSError as error:
                log.warning("what is served stays, for the folder of models cannot be read: %s", error)

    def _follow(self, found: Look) -> None:
        for key, home in found.homes.items():
            self._missed.pop(key, None)
            if self._seen.get(key) != (home, stamp(home)) and not self._is_out_of_sight(key, found):
                self._try_to_load(key, home)
        for key in (self._seen.keys() | self._states.keys()) - found.homes.keys():
            if key[0] not in found.unsure and not self._is_out_of_sight(key, found):
                self._miss(key)

    def _is_out_of_sight(self, key: Key, found: Look) -> bool:
        """Whether what was read of a version lies in a folder that cannot be read now."""
        return key in self._seen and _lies_in(self._seen[key][0], found.unreadable)

    def _try_to_load(self, key: Key, home: Path) -> None:
        try:
            self._load(key, home)
        except LcclError as error:
            log.error("%s stays as it was: %s", _called(*key), error)
        except Exception:
            log.exception("%s stays as it was, and is tried again", _called(*key))

    def _miss(self, key: Key) -> None:
        """Note that a look did not find a version; after some it is forgotten, and unloaded if it is served."""
        self._missed[key] += 1
        if self._missed[key] < LOOKS:
            return
        with self._changing:
            model = self._served.get(key)
            if model is not None:
                self._drop(model)
            for known in (self._missed, self._seen, self._states):
                known.pop(key, None)

    def _load(self, key: Key, home: Path) -> ServedModel:
        with self._changing:
            old, before = self._served.get(key), (home, stamp(home))
            if old is None:
                self._states[key] = IndexEntry(*key, "LOADING")
            try:
                model = self._make(*key, home)
                self._on_load(model)
            except Exception as error:
                state: State = "UNAVAILABLE" if old is None else "READY"
                self._states[key] = IndexEntry(*key, state, f"cannot be loaded: {error}")
                if isinstance(error, LcclError):
                    self._seen[key] = before
                raise
            self._seen[key] = before
            served = self._served | {key: model}
            self._serve({one: served[one] for one in sorted(served, key=_order)})
            self._states[key] = IndexEntry(*key, "READY")
            if old is not None:
                self._retire(old)
            return model

    def _make(self, name: str, version: str, home: Path) -> ServedModel:
        from lccl.bundle.self_test import check

        for part in (name, version):
            if not NAME.fullmatch(part):
                raise BundleError(f"{part!r} is no model name or version: use letters, digits, '.', '_' and '-'")
        bundle = self._read_bundle(name, home)
        engine = self._compile(bundle)
        bundle = bundle.in_precision(engine.precision)
        self_test = check(engine, bundle)
        return ServedModel(name, version, f"{name}:{version}:{next(self._serial)}", bundle, engine, self_test)

    def _drop(self, model: ServedModel) -> None:
        self._serve({key: one for key, one in self._served.items() if one is not model})
        self._states[model.name, model.version] = IndexEntry(model.name, model.version, "UNAVAILABLE", "unloaded")
        self._retire(model)

    def _serve(self, models: dict[Key, ServedModel]) -> None:
        self._served = models
        self._found = {}  # a new one: who found a model among the former ones may still be about to note it

    def _retire(self, model: ServedModel) -> None:
        model.retired = True
        self._on_unload(model)


def _order(key: Key) -> tuple[str, list[tuple[int, int, str]]]:
    """By name, then by version, in which whole numbers compare as numbers: 2 before 10, 1.2 before 1.10."""
    name, version = key
    parts = re.split(r"[._-]", version)
    return name, [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts]


def _lies_in(home: Path, folders: Sequence[Path]) -> bool:
    return any(home.is_relative_to(folder) for folder in folders)


def _called(name: str, version: str | None) -> str:
    return f"{name[:64]!r}" if version is None else f"{name[:64]!r} version {version[:64]!r}"
