"""v1: images and fields out of a multipart form, read in slices so that none holds the event loop up."""

from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ...errors import ServiceError
from ..turns import LoopTurns, joined

MAX_FIELDS = 16
MAX_FIELD_BYTES = 1 << 10
MAX_EPILOGUE = 1 << 10
SLICE = 1 << 16
FILE = "file"

Form = tuple[list[bytes], dict[str, Any]]


@dataclass(slots=True)
class _Part:
    name: str = ""
    is_file: bool = False
    size: int = 0
    pieces: list[bytes] = field(default_factory=list)


class _Reader:
    """Collects what the parser finds, and refuses what is more than a request may have."""

    def __init__(self, boundary: bytes, max_images: int) -> None:
        self.parts: list[_Part] = []
        self.ended = False
        self._max_images, self._files = max_images, 0
        self._header, self._value, self._disposition = b"", b"", b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin, "on_header_field": self._header_field,
                "on_header_value": self._header_value, "on_header_end": self._header_end,
                "on_headers_finished": self._headers_end, "on_part_data": self._data, "on_end": self._end,
            },
        )  # fmt: skip

    def feed(self, content: bytes) -> None:
        """Read on.

        Raises:
            FormParserError: this is no multipart.
            ServiceError: see :func:`read_form`.

        """
        self._parser.write(content)

    def _begin(self) -> None:
        self._disposition = b""
        self.parts.append(_Part())

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            if self._disposition:
                raise ServiceError("malformed", "the multipart body has a part with two Content-Dispositions")
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_end(self) -> None:
        part = self.parts[-1]
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise ServiceError("malformed", "the multipart body has a part without a name in its Content-Disposition")
        part.name = options[b"name"].decode(errors="replace")
        # Clients may leave the file's name out, or give it in the form that is for other protocols.
        part.is_file = part.name == FILE or b"filename" in options or b"filename*" in self._disposition.lower()
        if part.is_file and part.name != FILE:
            raise ServiceError("invalid_field", f"a file named {part.name[:64]!r}: name every file 'file'")
        self._files += part.is_file
        if self._files > self._max_images:
            raise ServiceError("too_large", f"more files in one request than the {self._max_images} that are taken")
        if len(self.parts) - self._files > MAX_FIELDS:
            raise ServiceError("too_large", f"more fields in one request than the {MAX_FIELDS} that are taken")

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        part.size += end - start
        if part.size > MAX_FIELD_BYTES and not part.is_file:
            raise ServiceError(
                "too_large",
                f"the field {part.name[:64]!r} has more than {MAX_FIELD_BYTES:,} bytes; images are parts named 'file'",
            )
        part.pieces.append(data[start:end])

    def _end(self) -> None:
        self.ended = True


async def read_form(content_type: str, body: bytes, max_images: int, turns: LoopTurns) -> Form:
    """The files and fields of a form.

    Args:
        content_type: the request's, which has the boundary.
        turns: of the event loop, for what takes long.

    Raises:
        ServiceError, malformed: it cannot be read, ends early, or goes on behind its end.
        ServiceError, too_large: more files or fields, or a longer field, than a request may have.
        ServiceError, invalid_field: a file that is not named ``file``, or a field given twice.

    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise ServiceError("malformed", "the multipart body cannot be read: its Content-Type has no boundary")
    try:
        reader = _Reader(boundary, max_images)
        await _feed(reader, boundary, body, max_images, turns)
    except (FormParserError, ValueError) as error:
        raise ServiceError("malformed", "the multipart body cannot be read: check its boundary and headers") from error
    images: list[bytes] = []
    fields: dict[str, Any] = {}
    for part in reader.parts:
        if part.is_file:
            if part.size > SLICE:
                await turns.next()
            images.append(await joined(part.pieces))
        elif part.name in fields:
            raise ServiceError("invalid_field", f"{part.name[:64]} is given twice: give it once")
        else:
            fields[part.name] = b"".join(part.pieces).decode(errors="replace")
    return images, fields


async def _feed(reader: _Reader, boundary: bytes, body: bytes, max_images: int, turns: LoopTurns) -> None:
    delimiter, delimiters = b"\r\n--" + boundary, 0
    end = delimiter + b"--"
    for start in range(0, len(body), SLICE):
        if start:
            await turns.next()
        piece = body[start : start + SLICE]
        delimiters += piece.count(delimiter)
        if delimiters > max_images + MAX_FIELDS + 1:  # in data, each would cost the parser's time
            raise ServiceError("too_large", f"more parts in one request than the {max_images + MAX_FIELDS} allowed")
        reader.feed(piece)
        if reader.ended and reader.parts:
            behind = body.find(end, max(0, start - len(end)), start + SLICE) + len(end)
            if len(body) - behind > MAX_EPILOGUE or body[behind:].strip():
                raise ServiceError("malformed", "the multipart body goes on behind its end")
        if reader.ended:
            return
    raise ServiceError("malformed", "the body ended early: the multipart form's end is missing")
