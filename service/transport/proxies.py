"""Trusted proxies: the client's address is the one that they pass on."""

import contextlib
from collections.abc import Callable
from typing import Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware


def behind_proxies(trusted: str) -> Callable[[Any], None]:
    """What sets the client of a scope as the server does in front of the application, which may be yet to come.

    Args:
        trusted: addresses and networks, separated by commas; without any nothing is changed.

    """
    if not trusted:
        return lambda _: None
    proxies = ProxyHeadersMiddleware(_no_application, trusted)

    def see_through(scope: Any) -> None:
        with contextlib.suppress(StopIteration):  # nothing in it waits
            proxies(scope, receive=_no_application, send=_no_application).send(None)

    return see_through


async def _no_application(*_: Any) -> Any:
    pass
