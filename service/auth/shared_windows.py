"""Windows of requests that several processes of one machine count in."""

import fcntl
import hashlib
import mmap
import os
import struct
import tempfile

from .windows import CALLERS

SLOT = struct.Struct("<16sQd")  # a digest of the caller, its requests in this window, and when it ends
PLACES = 8  # in which a caller may stand


def shared_file() -> int:
    """An open file for them, which processes that this one starts can be given."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("windows")
    file, path = tempfile.mkstemp()
    os.unlink(path)
    return file


class SharedWindows:
    """See the module; the processes' monotone clock is the same.

    A caller stands in one of :data:`PLACES` slots, which its digest names; where all are taken, the window that ends
    first gives way. The lock is the kernel's, which takes it from a process that dies.

    Args:
        file: an open one that is theirs alone; of any content at first, if this is ``fresh``.

    """

    def __init__(self, file: int, *, fresh: bool = False) -> None:
        if fresh:
            os.truncate(file, 0)
            os.truncate(file, CALLERS * SLOT.size)
        self._file, self._slots = file, mmap.mmap(file, CALLERS * SLOT.size)

    def count(self, caller: str, length_s: float, now: float) -> tuple[int, float]:
        digest = hashlib.blake2b(caller.encode(), digest_size=16).digest()
        first = int.from_bytes(digest[:4], "little") % (CALLERS - PLACES)
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            return self._count(digest, range(first * SLOT.size, (first + PLACES) * SLOT.size, SLOT.size), length_s, now)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _count(self, digest: bytes, places: range, length_s: float, now: float) -> tuple[int, float]:
        taken = {place: SLOT.unpack_from(self._slots, place) for place in places}
        # the caller's own place, or else the one whose window ends first, as those never used do
        place = min(taken, key=lambda one: (taken[one][0] != digest, taken[one][2]))
        own, count, end = taken[place]
        if own != digest or end <= now:
            count, end = 0, now + length_s
        SLOT.pack_into(self._slots, place, digest, count + 1, end)
        return count, end
