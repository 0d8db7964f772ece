"""The sources of models as folders: remote ones are fetched into the cache, and again whenever they are refreshed."""

import logging
import os
import threading
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from lccl.errors import LcclError

from ..errors import StartError
from . import archive
from .cache import RemoteFile, SourceCache, SourceError, bundle_id, find_bundles
from .location import Archive, Bucket, Folder, Location, Remote, Repository, folder_name, redacted

log = logging.getLogger(__name__)
TALKATIVE = ("boto3", "botocore", "filelock", "httpcore", "httpx", "httpx2", "huggingface_hub", "s3transfer", "urllib3")
CLIENTS = {Bucket: ("boto3", "s3"), Repository: ("huggingface_hub", "hf")}
LONGEST = 300  # characters of an error that is told


class Files(Protocol):
    """What a store or hub offers."""

    def listing(self) -> Iterable[RemoteFile]: ...

    def download(self, file: RemoteFile, target: Path) -> None: ...


class ModelSources:
    """All sources, in the order in which their models are preferred.

    Args:
        cache: the folder that fetched bundles are kept in; None takes the user's own.
        tell: is told of each remote source, without its secrets, whether it could be fetched.

    Attributes:
        folders: of models, one for each source.
        fetched: those of them that are fetched.

    Raises:
        StartError: the package of a source is not installed, or there is no folder for a cache.

    """

    def __init__(
        self, locations: Iterable[Location], cache: Path | None, tell: Callable[[str, bool], None] = lambda *_: None
    ) -> None:
        self._tell, self._caches = tell, dict[Remote, SourceCache]()
        folders = []
        for location in locations:
            if isinstance(location, Folder):
                folders.append(location.path)
                continue
            client = CLIENTS.get(type(location))
            if client and find_spec(client[0]) is None:
                raise StartError(f"{location} needs the package {client[0]}: pip install 'lccl[{client[1]}]'")
            self._caches[location] = SourceCache((cache or default_cache()) / folder_name(location))
            folders.append(self._caches[location].current)
        self.folders = tuple(folders)
        self.fetched = tuple(one.current for one in self._caches.values())
        if self._caches:
            for name in TALKATIVE:  # they write URLs with signatures, and headers
                logging.getLogger(name).setLevel(logging.ERROR)

    def start(self) -> None:
        """Fetch all; a source that cannot be is served from the cache.

        Raises:
            StartError: there is nothing to serve.

        """
        problems = self.refresh()
        nothing = all(not one.shown() for one in self._caches.values())
        if problems and nothing and len(self.fetched) == len(self.folders):
            raise StartError(f"there is no model to serve: {'; '.join(problems)}")

    def refresh(self) -> list[str]:
        """Fetch what is new at the remote sources; why some of them could not be."""
        if not self._caches:
            return []
        problems: list[str] = []
        threads = [
            threading.Thread(target=self._refresh, args=(location, problems), name="fetch", daemon=True)
            for location in self._caches
        ]  # no pool's: the process would wait for these when it ends
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return problems

    def _refresh(self, location: Remote, problems: list[str]) -> None:
        problem = ""
        try:
            _fetch(location, self._caches[location])
        except Exception as error:  # of whatever library; none of them may take what is served along
            problem = _told(location, error)
            problems.append(problem)
            has_any = self._caches[location].shown()
            log.error(
                "%s; %s", problem, "what the cache has of it is served" if has_any else "the cache has none of it"
            )
        self._tell(str(location), not problem)


def default_cache() -> Path:
    """``lccl/models`` in the user's cache folder.

    Raises:
        StartError: there is none.

    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lccl" / "models"
    except RuntimeError:
        raise StartError("there is no folder for fetched models: set LCCL_MODELS_CACHE") from None


def _fetch(location: Remote, cache: SourceCache) -> None:
    with cache.locked():
        if isinstance(location, Archive):
            _fetch_archive(location, cache)
        else:
            _fetch_files(location, cache)


def _fetch_files(location: Bucket | Repository, cache: SourceCache) -> None:
    """Bring the bundles that are new. One that is damaged, or on its way to the source, leaves the others alone."""
    files = _files_of(location)
    offered = find_bundles(files.listing(), location.name)
    if not offered:
        raise SourceError("there is no bundle.json in it, or in folders of it")
    before = cache.shown()
    places = {place: bundle_id(members) for place, members in offered.items()}
    if places == before:
        return
    cache.tidy(places.values())
    problems = []
    for place, bundle in places.items():
        try:
            if not cache.has(bundle):
                for file in offered[place]:
                    files.download(file, cache.partial(bundle) / file.path.rpartition("/")[2])
                cache.add(bundle)
        except LcclError as error:
            problems.append(f"{place} stays as it was: {error}")
            places[place] = before.get(place, "")
    places = {place: bundle for place, bundle in places.items() if bundle}
    if places != before:
        cache.show(places)
        log.info("fetched %s: %s", location, ", ".join(sorted(places)))
    if problems:
        raise SourceError("; ".join(problems))


def _files_of(location: Bucket | Repository) -> Files:
    if isinstance(location, Bucket):
        from .s3 import BucketFiles

        return BucketFiles(location)
    from .hub import HubFiles

    return HubFiles(location)


def _fetch_archive(location: Archive, cache: SourceCache) -> None:
    """Bring it, unless it is there: its digest says that it never changes."""
    if cache.shown():
        return
    folder = cache.partial(location.sha256)
    offered = find_bundles(archive.fetch(location, folder), location.name)
    if not offered:
        raise SourceError("there is no bundle.json in it, or in folders of it")
    places = {place: bundle_id(members) for place, members in offered.items()}
    for place, bundle in places.items():
        if not cache.has(bundle):
            for file in offered[place]:
                (folder / "tree" / file.path).replace(cache.partial(bundle) / file.path.rpartition("/")[2])
            cache.add(bundle)
    cache.show(places)
    cache.tidy(())
    log.info("fetched %s: %s", location, ", ".join(sorted(places)))


def _told(location: Remote, error: Exception) -> str:
    text = redacted(" ".join(str(error).split()))[:LONGEST]
    kind = "" if isinstance(error, SourceError) else f"{type(error).__name__}: "
    return f"{location} cannot be fetched: {kind}{text}"
