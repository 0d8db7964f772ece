"""Bringing one file: what an earlier try left is kept, and a connection that breaks is resumed where it broke."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .cache import SourceError
from .location import redacted

log = logging.getLogger(__name__)
TRIES = 4  # without a byte's progress
PAUSE_S = 0.5  # before the second try; doubled before each further one
TELL_S = 10.0  # between lines of progress
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Stream:
    """What a source sends of a file.

    Attributes:
        start: where in the file it begins: where it was asked to, or 0 of a source that has no parts.
        size: of the whole file; None where the source does not say.
        chunks: raises ConnectionError when it breaks.

    """

    start: int
    size: int | None
    chunks: Iterator[bytes]


def download(target: Path, what: str, most: int, open_at: Callable[[int], Stream]) -> None:
    """Bring a file to its end.

    Args:
        target: where it goes; bytes that are there already are not asked for again.
        what: the file as the log calls it.
        most: bytes that it may have.
        open_at: asks the source for the file from an offset; raises ConnectionError when that fails for now.

    Raises:
        SourceError: it is too large.
        ConnectionError: the source stays away.

    """
    failures = 0
    while True:
        have = target.stat().st_size if target.exists() else 0
        try:
            _append(target, what, most, open_at(have))
            return
        except ConnectionError as error:
            now = target.stat().st_size if target.exists() else 0
            failures = 0 if now > have else failures + 1
            if failures >= TRIES:
                raise
            log.warning("%s broke off after %d bytes and is resumed: %s", what, now, redacted(str(error)))
            time.sleep(PAUSE_S * 2**failures)


def _append(target: Path, what: str, most: int, stream: Stream) -> None:
    log.info("fetching %s: from byte %d of %s", what, stream.start, "unknown" if stream.size is None else stream.size)
    told = time.monotonic()
    with target.open("ab") as file:
        file.truncate(stream.start)
        for chunk in stream.chunks:
            file.write(chunk)
            if file.tell() > most:
                raise SourceError(f"{what} has more than the {most:,} bytes that it may have")
            if time.monotonic() - told >= TELL_S:
                told = time.monotonic()
                size = "an unknown number" if stream.size is None else f"{stream.size / MIB:.1f}"
                log.info("fetching %s: %.1f of %s MiB", what, file.tell() / MIB, size)
        if stream.size is not None and file.tell() < stream.size:
            raise ConnectionError(f"it ended after {file.tell()} of {stream.size} bytes")
