"""JSON from strangers: read strictly, and what is long in it in slices.

A parser keeps the interpreter's lock for a whole call, so that a long body holds the event loop up from a thread too.
So texts (of images) and arrays (of numbers) that are long are found without parsing, and a mark takes the place of
each. What is left is short, and parsed as any short JSON. A mark begins with U+0000; texts that begin with it are taken
out as well, so that nobody can write one.
"""

import base64
import binascii
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import orjson

from ..errors import ServiceError
from .turns import SHORT_BYTES, LoopTurns, joined

LONG_BYTES = 1 << 12  # of a text or array that is taken out
TEXT_SLICE = 1 << 19
PIECES_A_TURN = 1 << 10
MARK, ESCAPED_MARK = "\0", b"\\u0000"
MARK_BYTES = 32  # at most, with what separates it from the next
BACKSLASH = ord("\\")
LONGEST_ESCAPE = 6

Span = tuple[int, int]


class ShortJson:
    """JSON without its long texts and arrays.

    Attributes:
        text: what is left, to be parsed.

    """

    def __init__(self, text: bytes, whole: bytes, texts: dict[str, Span], arrays: dict[str, Span]) -> None:
        self.text, self._whole, self._texts, self._arrays = text, whole, texts, arrays

    async def from_base64(self, text: str, turns: LoopTurns) -> bytes:
        """The bytes that a text of the parsed JSON stands for; a mark stands for what it replaced.

        Raises:
            ValueError: it is not base64.

        """
        span = self._texts.pop(text, None)
        return base64.b64decode(text, validate=True) if span is None else await _decode(self._whole, *span, turns)

    def array(self, value: list[Any]) -> tuple[bytes, Span] | None:
        """Where the array is for which a value of the parsed JSON stands, its brackets included; None for another."""
        mark = value[0] if len(value) == 1 else None
        span = self._arrays.pop(mark, None) if isinstance(mark, str) else None
        return None if span is None else (self._whole, span)

    def check_all_taken(self) -> None:
        """Call at the end.

        Raises:
            ServiceError, malformed: something long was neither an image nor a tensor.

        """
        for start, end in (*self._texts.values(), *self._arrays.values()):
            raise ServiceError("malformed", f"{end - start:,} bytes of the JSON, from byte {start:,} on, are no image")


async def shorten(whole: bytes, most: int, turns: LoopTurns) -> ShortJson:
    """Take long texts and arrays out of JSON.

    Args:
        most: how many of them there may be.

    Raises:
        ServiceError, malformed: a text without an end, or a long one with quotation marks.
        ServiceError, too_large: more is left than a good request has.

    """
    if len(whole) <= SHORT_BYTES:
        return ShortJson(whole, whole, {}, {})
    left: list[bytes] = []
    size, bound = 0, SHORT_BYTES + MARK_BYTES * most
    texts: dict[str, Span] = {}
    arrays: dict[str, Span] = {}
    for number, (found, start, end) in enumerate(_pieces(whole)):
        if number % PIECES_A_TURN == 0:
            await turns.next()
        if found is None:
            size += end - start
        else:
            size += MARK_BYTES
            mark = f"{len(texts) + len(arrays)}"
            (texts if found == "text" else arrays)[MARK + mark] = (start, end)
        if size > bound:
            raise ServiceError(
                "too_large", f"the JSON has more values than {most} images, the most in one request, have"
            )
        if found is None:
            left.append(whole[start:end])
        else:
            marked = b'"%b%b"' % (ESCAPED_MARK, mark.encode())
            left.append(marked if found == "text" else b"[%b]" % marked)
    return ShortJson(b"".join(left), whole, texts, arrays)


def _pieces(whole: bytes) -> Iterator[tuple[str | None, int, int]]:
    """All of JSON, in order: what stays (None), and long texts, without their quotation marks, and arrays."""
    at = 0
    while (opening := whole.find(b'"', at)) >= 0:
        yield from _between_texts(whole, at, opening)
        at = _end_of_text(whole, opening + 1) + 1
        if at - opening > LONG_BYTES or whole.startswith(ESCAPED_MARK, opening + 1):
            yield "text", opening + 1, at - 1
        else:
            yield None, opening, at
    yield from _between_texts(whole, at, len(whole))


def _between_texts(whole: bytes, start: int, end: int) -> Iterator[tuple[str | None, int, int]]:
    if end - start > LONG_BYTES:
        braces = [at for at in (whole.find(b"{", start, end), whole.find(b"}", start, end)) if at >= 0]
        stop = min(braces, default=end)
        first, last = whole.find(b"[", start, stop), whole.rfind(b"]", start, stop)
        if 0 <= first < last:
            yield None, start, first
            yield "array", first, last + 1
            start = last + 1
    if start < end:
        yield None, start, end


def _end_of_text(whole: bytes, start: int) -> int:
    """Where the quotation mark is that ends a text."""
    at = start
    while (end := whole.find(b'"', at)) >= 0:
        before = end
        while before > start and whole[before - 1] == BACKSLASH and end - before < LONG_BYTES:
            before -= 1
        if (end - before) % 2 == 0:
            return end
        if end - start > LONG_BYTES:
            raise ServiceError("malformed", f"a text of more than {LONG_BYTES:,} bytes is not valid base64")
        at = end + 1
    raise ServiceError("malformed", "the JSON cannot be read: a text has no end")


async def _decode(whole: bytes, start: int, end: int, turns: LoopTurns) -> bytes:
    """Bytes from a long text's base64, in slices that cut neither an escape nor four digits."""
    decoded: list[bytes] = []
    digits = b""
    while start < end:
        await turns.next()
        stop = min(start + TEXT_SLICE, end)
        if stop < end:
            escape = whole.rfind(b"\\", stop - LONGEST_ESCAPE + 1, stop)
            stop = escape if escape >= 0 else stop
        piece = whole[start:stop]
        if b"\\" in piece:
            piece = str(orjson.loads(b'"%b"' % piece)).encode("ascii")
        digits += piece
        count = len(digits) if stop == end else len(digits) // 4 * 4
        if stop < end and digits.endswith(b"=", 0, count):
            raise ValueError("Excess data after padding")
        decoded.append(binascii.a2b_base64(digits[:count], strict_mode=True))
        digits, start = digits[count:], stop
    return await joined(decoded)


def load_json(text: bytes, hint: str = "") -> Any:
    """JSON as its standard has it: UTF-8, no NaN, no name twice in an object.

    Args:
        hint: a sentence for those whose text is no JSON.

    Raises:
        ServiceError, invalid_field: a name twice.
        ServiceError, malformed: any other fault.

    """
    try:
        return json.loads(text.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError as error:
        raise ServiceError(
            "malformed", "the JSON is nested too deeply: tensors nest no deeper than their shape"
        ) from error
    except ValueError as error:
        raise ServiceError("malformed", f"the JSON cannot be read: {str(error)[:120]}. {hint}".rstrip()) from error


def check_names(text: bytes) -> None:
    """See that no object of JSON that a lenient parser has read has a name twice.

    Raises:
        ServiceError, invalid_field: one has.

    """
    json.loads(text.decode(), object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ServiceError("invalid_field", f"{twice[:64]!r} is given twice in one JSON object: give it once")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
