"""A model repository of the Hugging Face hub, by huggingface_hub; endpoint and token come from its usual settings."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from .cache import RemoteFile, SourceError
from .location import Repository

DOWNLOADS = ".hub"  # beside the files; huggingface_hub keeps there what it has of a file when it breaks off


class HubFiles:
    """The files of a repository at a revision."""

    def __init__(self, location: Repository) -> None:
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined,unused-ignore]

        disable_progress_bars()
        self._location = location
        self._commit: str | None = None

    def listing(self) -> Iterator[RemoteFile]:
        """All of them, at the commit that the revision is now."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.hf_api import RepoFile

        api, repository = HfApi(), self._location.repository
        try:
            found = api.repo_info(repository, revision=self._location.revision)
        except HfHubHTTPError:
            raise
        except Exception:  # of its HTTP library: a connection that was kept may be gone
            found = api.repo_info(repository, revision=self._location.revision)
        self._commit = found.sha
        for entry in api.list_repo_tree(repository, recursive=True, revision=self._commit):
            if isinstance(entry, RepoFile):
                yield RemoteFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)

    def download(self, file: RemoteFile, target: Path) -> None:
        """Bring a file of the commit that was listed, and check it against the hash that the hub has of it.

        Raises:
            SourceError: it is damaged.
            Exception: huggingface_hub's and its HTTP library's, when it cannot be had.

        """
        from huggingface_hub import hf_hub_download

        if target.exists():
            return
        folder = target.parent / DOWNLOADS
        brought = Path(hf_hub_download(self._location.repository, file.path, revision=self._commit, local_dir=folder))
        if file.tag not in (_sha256(brought), _git_hash(brought)):
            brought.unlink()
            raise SourceError(f"{self._location}: {file.path} is damaged: its hash is not the one that the hub states")
        brought.replace(target)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _git_hash(file: Path) -> str:
    """What git calls the content; the hub states it of files that it keeps in git itself, which are small."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
