"""Good bytes, and what may happen to them."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

NUMBERS = [bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1", b"\1\0\0\0", b"\0\1", b"\1\0"]
MOST = 3  # pieces of damage


def apply(content: bytes, kind: str, place: int, length: int, piece: bytes) -> bytes:
    """Damage bytes once, at a place that is taken modulo their number."""
    start = place % (len(content) + 1)
    end = start + length
    before, taken, behind = content[:start], content[start:end], content[end:]
    return {
        "cut": before,
        "remove": before + behind,
        "insert": before + piece + taken + behind,
        "replace": before + piece + content[start + len(piece) :],
        "repeat": before + 4 * taken + behind,
        "move": before + behind + taken,
        "flip": before + bytes(byte ^ 1 << length % 8 for byte in taken[:1]) + taken[1:] + behind,
    }[kind]


def damaged(seeds: Sequence[bytes], tokens: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of the seeds, damaged up to ``MOST`` times, with the tokens that its format is sensitive to."""
    kinds = st.sampled_from(["flip", "flip", "replace", "insert", "remove", "repeat", "move", "cut"])
    pieces = st.sampled_from([*tokens, *NUMBERS]) | st.binary(min_size=1, max_size=8)
    once = st.tuples(kinds, st.integers(0, 1 << 16), st.integers(1, 64), pieces)

    def all_of(seed: bytes, damage: list[tuple[str, int, int, bytes]]) -> bytes:
        for one in damage:
            seed = apply(seed, *one)
        return seed

    return st.builds(all_of, st.sampled_from(list(seeds)), st.lists(once, min_size=1, max_size=MOST))
