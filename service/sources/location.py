"""Where models come from: the setting's text as a list of locations, and texts without the secrets of URLs."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")
REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,254}")
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip")
USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#]*@")
QUERY = re.compile(r"\?[^\s?'\"<>]*=[^\s'\"<>]*")


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of bundles on this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A prefix of a bucket of an S3-compatible store."""

    bucket: str
    prefix: str  # without slashes at its ends

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def name(self) -> str:
        """Of a model whose bundle lies at the prefix itself."""
        return self.prefix.rpartition("/")[2] or self.bucket


@dataclass(frozen=True, slots=True)
class Repository:
    """A model repository of the Hugging Face hub at a branch, tag or commit."""

    repository: str
    revision: str

    def __str__(self) -> str:
        return f"hf://{self.repository}@{self.revision}"

    @property
    def name(self) -> str:
        """Of a model whose bundle lies at the root."""
        return self.repository.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive behind HTTPS, named by its digest as well.

    Attributes:
        url: without the fragment; it may hold a password or a signature.

    """

    url: str = field(repr=False)
    sha256: str

    def __str__(self) -> str:
        return redacted(self.url)

    @property
    def name(self) -> str:
        """Of a model whose bundle lies at the archive's root."""
        file = PurePosixPath(unquote(urlsplit(self.url).path)).name
        return next((file[: -len(end)] for end in ARCHIVES if file.lower().endswith(end)), file)


Remote = Bucket | Repository | Archive
Location = Folder | Remote


def parse_locations(text: str) -> tuple[Location, ...]:
    """Read locations that are separated by commas; the path of a folder that is there is taken as it is.

    Raises:
        ValueError: one of them is none; the text has no secret of it.

    """
    if text.strip() and Path(text).is_dir():
        return (Folder(Path(text)),)
    parts = [part.strip() for part in text.split(",")]
    locations = tuple(dict.fromkeys(_parse(part) for part in parts if part))
    if not locations:
        raise ValueError("name a folder of models, or sources separated by commas")
    return locations


def folder_name(location: Remote) -> str:
    """The name of its folder in the cache: readable, different for each location, without secrets."""
    kind = {Bucket: "s3", Repository: "hf", Archive: "https"}[type(location)]
    identity = location.sha256 if isinstance(location, Archive) else str(location)
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", location.name)[:60].strip(".-")
    return f"{kind}-{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def redacted(text: str) -> str:
    """A text with the names, passwords and queries taken out of all its URLs."""
    return QUERY.sub("?…", USERINFO.sub(r"\1…@", text))


def _parse(text: str) -> Location:
    scheme = SCHEME.match(text)
    if scheme is None:
        return Folder(Path(text))
    rest = text[scheme.end() :]
    match scheme[1].lower():
        case "s3":
            return _bucket(rest)
        case "hf":
            return _repository(rest)
        case "https":
            return _archive(text)
    raise ValueError(f"{redacted(text)!r} is no source of models: use a folder, s3://, hf:// or https://")


def _bucket(rest: str) -> Bucket:
    bucket, _, prefix = rest.partition("/")
    if not BUCKET.fullmatch(bucket) or "?" in prefix or "#" in prefix:
        raise ValueError(
            "an s3 source is s3://bucket/prefix; its endpoint and credentials come from the usual AWS settings"
        )
    return Bucket(bucket, prefix.strip("/"))


def _repository(rest: str) -> Repository:
    repository, _, revision = rest.partition("@")
    revision = revision or "main"
    if not REPOSITORY.fullmatch(repository) or not REVISION.fullmatch(revision):
        raise ValueError("an hf source is hf://owner/name@revision; its token comes from the hub's usual settings")
    return Repository(repository, revision)


def _archive(text: str) -> Archive:
    url, _, fragment = text.partition("#")
    digest = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    parts = urlsplit(url)
    if digest is None:
        raise ValueError(f"{redacted(url)} needs the archive's digest behind it: #sha256= and 64 hexadecimal digits")
    if not parts.hostname or not parts.path.lower().endswith(ARCHIVES):
        raise ValueError(f"{redacted(url)} is no archive: its name ends in one of {', '.join(ARCHIVES)}")
    return Archive(url, digest[1].lower())
