"""Logs as JSON, one object a line, written by a separate thread, so that a blocked log delays no request."""

import logging.config
import os
import sys
import threading
from collections import deque

LINES = 20_000  # that may wait to be written
GATHER_S = 0.02  # a line waits so long for others, so that one call writes them all
PATIENCE_S = 1.0  # for what still waits when the process ends


def configure(level: str) -> None:
    """Send every logger's lines to standard output as JSON; requests are logged by the service itself."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "json": {
                    "()": "pythonjsonlogger.json.JsonFormatter",
                    "format": "%(asctime)s %(levelname)s %(name)s %(message)s",
                    "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
                }
            },
            "handlers": {"out": {"()": _to_standard_output, "formatter": "json"}},
            "root": {"handlers": ["out"], "level": level.upper()},
            "loggers": {
                "uvicorn.access": {"level": "WARNING"},
                "python_multipart": {"level": "ERROR"},  # it warns of every bad form; the client is told
            },
        }
    )


def _to_standard_output() -> logging.Handler:
    """A handler for standard output; where that is closed, one that drops all lines: its descriptor may be reused."""
    return logging.NullHandler() if sys.stdout is None else BackgroundHandler(sys.stdout.fileno())


class BackgroundHandler(logging.Handler):
    """Writes lines to an open file. Those that cannot be written are lost, and counted once others can be again.

    Args:
        file: its descriptor; a full disk, a closed pipe or one that nobody reads does no harm.
        limit: lines that may wait.

    """

    def __init__(self, file: int, limit: int = LINES) -> None:
        super().__init__()
        self._file, self._limit = file, limit
        self._lines: deque[bytes] = deque()
        self._refused = 0  # lines; counted by those who log
        self._failed, self._told, self._torn = 0, 0, False  # the thread's own
        self._waiting, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._loop, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._encode(record)
        except Exception:  # as all handlers do: what cannot be formatted is told on standard error
            self.handleError(record)
            return
        if len(self._lines) < self._limit:
            self._lines.append(line)
        else:
            self._refused += 1
        self._waiting.set()

    def close(self) -> None:
        """Write what waits, if that is soon done."""
        self._ending.set()
        self._waiting.set()
        self._thread.join(PATIENCE_S)
        super().close()

    def _loop(self) -> None:
        while not self._ending.is_set():
            self._waiting.wait()
            self._ending.wait(GATHER_S)
            self._waiting.clear()
            self._write(b"".join(self._lines.popleft() for _ in range(len(self._lines))))

    def _write(self, lines: bytes) -> None:
        """Write lines, all or as many as it goes."""
        lost = self._refused + self._failed
        notes = (b"\n" if self._torn else b"") + (self._note(lost - self._told) if lost > self._told else b"")
        left = memoryview(notes + lines)
        size = len(left)
        try:
            while left:
                left = left[os.write(self._file, left) :]
            self._told, self._torn = lost, False
        except OSError:
            self._torn = self._torn or len(left) < size
            self._failed += lines.count(b"\n", max(0, len(lines) - len(left)))

    def _note(self, lost: int) -> bytes:
        text = "%d lines of this log were lost: they could not be written"
        return self._encode(logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (lost,), None))

    def _encode(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode(errors="replace") + b"\n"
