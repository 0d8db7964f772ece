"""The client's leaving, told by its connection to whoever works on its request."""

from __future__ import annotations

from collections.abc import Callable


class Departure:
    """Whether the client of a connection has left. A connection's requests are answered one by one: one watches.

    Args:
        listen: makes the connection read on, for else its end would not be seen.

    """

    def __init__(self, listen: Callable[[], None]) -> None:
        self.happened = False
        self._listen = listen
        self._tell: Callable[[], None] | None = None

    def watch(self, tell: Callable[[], None] | None) -> None:
        """Call back when the client leaves, at once if it has; None takes that back."""
        self._tell = tell
        if tell is not None and self.happened:
            tell()
        elif tell is not None:
            self._listen()

    def happen(self) -> None:
        """The client has left."""
        self.happened = True
        if self._tell is not None:
            self._tell()
