"""Logs as JSON, one object a line, written by a separate thread, so that a blocked log delays no request."""

import logging.config
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson
from pythonjsonlogger.json import JsonFormatter

LINES = 20_000  # that may wait to be written
GATHER_S = 0.02  # a line waits so long for others, so that one call writes them all
PIECE = 4096  # bytes that Linux writes to a pipe in one piece (PIPE_BUF)
PATIENCE_S = 1.0  # for what still waits when the process ends
FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
NOWHERE: Mapping[str, Any] = (
    dict.fromkeys(("pathname", "filename", "module", "funcName"), "")
    | dict.fromkeys(("lineno", "thread", "process", "relativeCreated"), 0)
    | dict.fromkeys(("threadName", "processName", "taskName", "exc_info", "exc_text", "stack_info"))
)
NAMES = {"asctime": "time", "levelname": "level", "name": "logger"}


def configure(level: str, process: int | None = None) -> None:
    """Send every logger's lines to standard output as JSON; requests are logged by the service itself.

    Args:
        process: number of this one, where several write to the same output: each line says it, and is written whole.

    """
    own = {} if process is None else {"process": process}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "json": {"()": LineFormatter, "format": FORMAT, "rename_fields": NAMES, "static_fields": own}
            },
            "handlers": {"out": {"()": _to_standard_output, "formatter": "json", "shared": process is not None}},
            "root": {"handlers": ["out"], "level": level.upper()},
            "loggers": {
                "uvicorn.access": {"level": "WARNING"},
                "python_multipart": {"level": "ERROR"},  # it warns of every bad form; the client is told
            },
        }
    )


def _to_standard_output(shared: bool) -> logging.Handler:
    """A handler for standard output; where that is closed, one that drops all lines: its descriptor may be reused."""
    return logging.NullHandler() if sys.stdout is None else BackgroundHandler(sys.stdout.fileno(), shared=shared)


class RequestRecord(logging.LogRecord):
    """The record of a request: it does not say which line, thread or process logged it, which takes long to find.

    Args:
        arguments: of the message; neither they nor the fields change later.
        fields: written beside the message.

    """

    def __init__(
        self, logger: str, level: int, message: str, arguments: tuple[object, ...], fields: Mapping[str, Any]
    ) -> None:
        self.name, self.levelno, self.levelname = logger, level, logging.getLevelName(level)
        self.msg, self.args, self.created = message, arguments, time.time()
        self.msecs = 1000 * (self.created % 1)
        self.fields = fields
        self.__dict__.update(NOWHERE)
        self.__dict__.update(fields)


class LineFormatter(JsonFormatter):
    """JSON on one line."""

    def format(self, record: logging.LogRecord) -> str:
        if not isinstance(record, RequestRecord):
            return str(super().format(record))
        head = {"time": f"{_second(int(record.created))},{int(record.msecs):03d}", "level": record.levelname}
        line = {**head, "logger": record.name, "message": record.getMessage(), **record.fields}
        return orjson.dumps(line | self.static_fields).decode()


@lru_cache(maxsize=2)
def _second(number: int) -> str:
    return time.strftime(logging.Formatter.default_time_format, time.localtime(number))


class BackgroundHandler(logging.Handler):
    """Writes lines to an open file. Those that cannot be written are lost, and counted once others can be again.

    Args:
        file: its descriptor; a full disk, a closed pipe or one that nobody reads does no harm.
        limit: lines that may wait.
        shared: whether other processes write to the file, so that lines are written in pieces that a pipe keeps whole.

    """

    def __init__(self, file: int, limit: int = LINES, *, shared: bool = False) -> None:
        super().__init__()
        self._file, self._limit = file, limit
        self._piece = PIECE if shared else sys.maxsize
        self._lines: deque[bytes | RequestRecord] = deque()  # requests' records become lines where they are written
        self._refused = 0  # lines; counted by those who log
        self._failed, self._told, self._torn = 0, 0, False  # the thread's own
        self._waiting, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._loop, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        line = record if isinstance(record, RequestRecord) else self._encode_or_tell(record)
        if len(self._lines) < self._limit:
            self._lines.append(line)
        else:
            self._refused += 1
        if not self._waiting.is_set():
            self._waiting.set()

    def close(self) -> None:
        """Write what waits, if that is soon done."""
        self._ending.set()
        self._waiting.set()
        self._thread.join(PATIENCE_S)
        super().close()

    def _loop(self) -> None:
        ending = False
        while not ending or self._lines:
            self._waiting.wait()
            self._ending.wait(GATHER_S)
            self._waiting.clear()
            ending = self._ending.is_set()
            waiting = (self._lines.popleft() for _ in range(len(self._lines)))
            self._write(b"".join(one if isinstance(one, bytes) else self._encode_or_tell(one) for one in waiting))

    def _write(self, lines: bytes) -> None:
        """Write lines, all or as many as it goes."""
        lost = self._refused + self._failed
        notes = (b"\n" if self._torn else b"") + (self._note(lost - self._told) if lost > self._told else b"")
        left = memoryview(notes + lines)
        size = len(left)
        try:
            while left:
                left = left[os.write(self._file, left[: self._whole(left)]) :]
            self._told, self._torn = lost, False
        except OSError:
            self._torn = self._torn or len(left) < size
            self._failed += lines.count(b"\n", max(0, len(lines) - len(left)))

    def _whole(self, lines: memoryview) -> int:
        """Bytes of the first lines that fit together into a piece; of a longer line all."""
        if len(lines) <= self._piece:
            return len(lines)
        end = bytes(lines[: self._piece]).rfind(b"\n") + 1
        return end or bytes(lines).find(b"\n") + 1

    def _note(self, lost: int) -> bytes:
        text = "%d lines of this log were lost: they could not be written"
        return self._encode(logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (lost,), None))

    def _encode_or_tell(self, record: logging.LogRecord) -> bytes:
        """The line; as all handlers do, what cannot be formatted is told on standard error."""
        try:
            return self._encode(record)
        except Exception:
            self.handleError(record)
            return b""

    def _encode(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode(errors="replace") + b"\n"
