"""Who may use the routes, and how often: API keys, rate limits, and the routes of administrators."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any

from fastapi import Request

from service.errors import ForbiddenError, UnauthorisedError
from service.keys import Caller
from service.parts import parts_of

IPV6_HOME = 64  # bits of an IPv6 address that tell one home or machine from another; it can have all of the rest


def require_key(request: Request) -> Caller:
    """Find who asks, once per request, and count the request under that caller's rate; also a dependency.

    Guesses at keys are counted under the address they come from.

    Raises:
        UnauthorisedError: keys are asked for, and none of them was given.
        RateLimitedError: the caller has used up its requests for now.

    """
    state: dict[str, Any] = request.scope["state"]
    known: Caller | None = state.get("caller")
    if known is not None:
        return known
    parts, address = parts_of(request), address_of(request)
    try:
        caller = parts.keys.identify(request.headers, address)
    except UnauthorisedError:
        parts.rates.count(address)
        raise
    state["caller"] = caller
    parts.rates.count(f"key {caller.name}" if parts.keys.asked else address, caller.rate)
    return caller


def require_admin(request: Request) -> Caller:
    """As :func:`require_key`, for callers whose key says ``admin = true``; also a dependency.

    Raises:
        ForbiddenError: another caller, or no key is an administrator's, so that these routes are off.

    """
    caller = require_key(request)
    if not parts_of(request).keys.has_admin:
        raise ForbiddenError("this route is off: give a key 'admin = true' in the file that LCCL_API_KEYS names")
    if not caller.admin:
        raise ForbiddenError(f"the key {caller.name!r} may not do this: ask with one that has 'admin = true'")
    return caller


def address_of(request: Request) -> str:
    """The address a request came from; of an IPv6 address the network, or it would have 2⁶⁴ names."""
    client = request.scope.get("client")
    return _home(client[0] if client else "")


@lru_cache(maxsize=4096)
def _home(host: str) -> str:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return "unknown"  # a local socket, or what a trusted proxy passed on from a hostile header
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, IPV6_HOME), strict=False))
