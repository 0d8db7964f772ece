"""API keys: who asks, found by the key's hash. ``python -m lccl.service.auth.keys NAME`` makes a key."""

import argparse
import hashlib
import hmac
import logging
import re
import secrets
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Self

from limits import RateLimitItem
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from ..errors import ServiceError, StartError
from ..toml_file import read_toml
from .rate_limits import RateText, parse_rate

log = logging.getLogger(__name__)
SINGLE = "default"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
PREFIX = "lccl_"  # lets scanners for leaked secrets recognise a key


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    Attributes:
        name: the key's name or, where no keys are asked for, the address.
        rate: its own limit; None takes the default one.

    """

    name: str
    admin: bool = False
    rate: RateLimitItem | None = None


class KeyEntry(BaseModel):
    """One key of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    rate: RateText = ""
    admin: bool = False


class KeyFile(BaseModel):
    """The file that ``LCCL_API_KEYS`` names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: Annotated[dict[Annotated[str, StringConstraints(pattern=f"^{NAME}$")], KeyEntry], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({entry.sha256 for entry in self.keys.values()}) < len(self.keys):
            raise ValueError("two names have the same sha256: make a key for each")
        return self


def read_keys(path: Path) -> dict[bytes, Caller]:
    """The callers of a key file by the SHA-256 of their keys.

    Raises:
        StartError: the file cannot be read, others than its owner may write to it, or it is not as it should be.

    """
    try:
        if sys.platform != "win32" and path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise StartError(f"{path}: others may write to it and so make keys for themselves: chmod go-w {path}")
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}") from None
    file = read_toml(path, KeyFile)
    return {
        bytes.fromhex(entry.sha256): Caller(name, entry.admin, parse_rate(entry.rate))
        for name, entry in file.keys.items()
    }


class KeyRing:
    """The callers that have a key; with none in it, whoever asks is welcome.

    Attributes:
        asked: whether callers need a key.
        has_admin: whether one of them is an administrator.

    """

    def __init__(self, read: Callable[[], Mapping[bytes, Caller]], stamp: Callable[[], object] = lambda: None) -> None:
        """Takes what reads callers by the SHA-256 of their keys, and what differs once they may have changed."""
        self._read, self._stamp = read, stamp
        self._seen = stamp()
        self._take(read())

    def _take(self, callers: Mapping[bytes, Caller]) -> None:
        self._callers, self.asked = dict(callers), bool(callers)
        self.has_admin = any(caller.admin for caller in callers.values())

    @classmethod
    def load(cls, path: Path | None, single: str | None) -> Self:
        """The keys of a file, and the single one that has no file, under the name ``default``.

        Raises:
            StartError: see :func:`read_keys`; or the file has a ``default``, or the single key, too.

        """
        return cls(partial(_callers, path, single), partial(_stamp, path) if path else lambda: None)

    def refresh(self) -> None:
        """Read the file again if it changed; from one that cannot be used nothing is taken, and the log says why."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._take(self._read())
        except StartError as error:
            log.error("the API keys stay as they were: %s", error)
        else:
            log.info("the API keys were read again: there are %d", len(self._callers))

    def identify(self, headers: Mapping[str, str], address: str) -> Caller:
        """Who asks, by ``Authorization: Bearer`` or ``X-API-Key``; every key is compared, in constant time.

        Raises:
            ServiceError, unauthorised: keys are asked for, and none of them was given.

        """
        if not self.asked:
            return Caller(address)
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = hashlib.sha256(given.encode("latin-1")).digest()
        found = None
        for wanted, caller in self._callers.items():
            if hmac.compare_digest(digest, wanted) and given:
                found = caller
        if found is None:
            raise ServiceError(
                "unauthorised", "an API key is needed: send Authorization: Bearer KEY, or X-API-Key: KEY"
            )
        return found


def _callers(path: Path | None, single: str | None) -> dict[bytes, Caller]:
    callers = read_keys(path) if path else {}
    if single is not None:
        digest = hashlib.sha256(single.encode()).digest()
        if digest in callers or SINGLE in {caller.name for caller in callers.values()}:
            raise StartError(f"{path}: has the single key (LCCL_API_KEY), or its name {SINGLE!r}, too")
        callers[digest] = Caller(SINGLE)
    return callers


def _stamp(path: Path) -> tuple[int, ...]:
    """Differs once a file was written, replaced or given other permissions."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_size


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a key: shown once on standard error, its lines for the key file on standard output."""
    parser = argparse.ArgumentParser(prog="python -m lccl.service.auth.keys", description="Make an API key.")
    parser.add_argument("name", help="who will use it; letters, digits, '.', '_' and '-'")
    parser.add_argument("--rate", default="", help="requests it may send, such as 100/second; else the default rate")
    parser.add_argument("--admin", action="store_true", help="may load and unload models")
    options = parser.parse_args(arguments)
    if not re.fullmatch(NAME, options.name):
        parser.error(f"{options.name!r} is no name: use letters, digits, '.', '_' and '-'")
    try:
        parse_rate(options.rate)
    except ValueError as error:
        parser.error(str(error))
    key = PREFIX + secrets.token_urlsafe(32)
    print(
        f"The key, shown this once: {key}\nFor the file that LCCL_API_KEYS names:",
        file=sys.stderr,
    )
    print(f'[keys."{options.name}"]')
    print(f'sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"')
    if options.rate:
        print(f'rate = "{options.rate}"')
    if options.admin:
        print("admin = true")


if __name__ == "__main__":
    main()
