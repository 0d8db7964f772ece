"""In what order requests begin while many are under way: one client's after another's, a few in a turn of the loop."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

AT_ONCE = 4  # requests that begin in one turn of the event loop, 0.3 ms each


class Starts:
    """Begins requests at once, or in turns of their clients while the server is crowded.

    A client with hundreds of connections may have a request ready on each. Begun as they come, those of others would
    wait for all of them.

    Args:
        is_crowded: whether many requests are under way.
        client_of: whoever sends a request.

    """

    def __init__(
        self, is_crowded: Callable[[], bool] = lambda: False, client_of: Callable[[Any], str | None] = lambda _: None
    ) -> None:
        self._is_crowded, self._client_of = is_crowded, client_of
        self._waiting: OrderedDict[str | None, deque[Callable[[], None]]] = OrderedDict()

    def begin(self, scope: Any, start: Callable[[], None]) -> None:
        """Call ``start`` now, or when it is the turn of the client that sent the request."""
        if not self._waiting:
            if not self._is_crowded():
                start()
                return
            asyncio.get_running_loop().call_soon(self._take_turns)
        self._waiting.setdefault(self._client_of(scope), deque()).append(start)

    def _take_turns(self) -> None:
        try:
            for _ in range(AT_ONCE):
                if not self._waiting:
                    return
                client, line = next(iter(self._waiting.items()))
                start = line.popleft()
                if line:
                    self._waiting.move_to_end(client)
                else:
                    del self._waiting[client]
                start()
        finally:  # one that fails must not keep all others waiting
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._take_turns)
