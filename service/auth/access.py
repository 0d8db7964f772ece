"""Who may use a route, and how often: keys and rates together, for one request."""

import ipaddress
from functools import lru_cache
from typing import Literal

from fastapi import Request
from limits import RateLimitItem
from starlette.types import Scope

from ..errors import ServiceError
from .keys import KeyRing
from .rate_limits import RateLimits
from .shared_rates import SharedRates

Level = Literal["open", "key", "admin"]
KEY_HEADERS = {b"authorization", b"x-api-key"}
IPV6_HOME = 64  # bits of an IPv6 address that tell one home or machine from another; it can have all of the rest


class AccessControl:
    """The only place where keys are checked and requests counted; every route passes through it."""

    def __init__(self, keys: KeyRing, rates: RateLimits, shared: SharedRates | None = None) -> None:
        """Takes what counts for this process, and what counts for all replicas, where there is such."""
        self._keys, self._rates, self._shared = keys, rates, shared

    async def admit(self, request: Request, level: Level) -> None:
        """Find who asks, count the request under that caller's rate, and note the caller in the request's state.

        Guesses at keys are counted under the address that they come from.

        Args:
            level: ``open`` admits everybody, ``key`` callers with a key where keys are asked for, ``admin`` those
                whose key says ``admin = true``.

        Raises:
            ServiceError, unauthorised: keys are asked for, and none of them was given.
            ServiceError, rate_limited: the caller has used up its requests for now.
            ServiceError, forbidden: the caller is no administrator, or no key is, so that these routes are off.

        """
        if level == "open":
            return
        client = request.scope.get("client")
        address = _address(client[0] if client else "")
        try:
            caller = self._keys.identify(_keys(request.scope), address)
        except ServiceError:
            await self._count(address)
            raise
        request.scope["state"]["caller"] = caller
        await self._count(f"key {caller.name}" if self._keys.asked else address, caller.rate)
        if level == "admin" and not self._keys.has_admin:
            raise ServiceError(
                "forbidden", "this route is off: give a key 'admin = true' in the file that LCCL_API_KEYS names"
            )
        if level == "admin" and not caller.admin:
            raise ServiceError(
                "forbidden", f"the key {caller.name!r} may not do this: ask with one that has 'admin = true'"
            )

    async def _count(self, caller: str, rate: RateLimitItem | None = None) -> None:
        if self._shared is None:
            self._rates.count(caller, rate)
        else:
            await self._shared.count(caller, rate)

    def name_of(self, scope: Scope) -> str | None:
        """Whom fairness counts a request for, also before it was admitted; None for whoever has not the key to ask."""
        caller = scope["state"].get("caller")
        if caller is None:
            client = scope.get("client")
            try:
                caller = self._keys.identify(_keys(scope), _address(client[0] if client else ""))
            except ServiceError:
                return None
        return str(caller.name)


def _keys(scope: Scope) -> dict[str, str]:
    """The headers in which a key may be, the first of each."""
    return {
        str(name, "latin-1"): str(value, "latin-1") for name, value in reversed(scope["headers"]) if name in KEY_HEADERS
    }


@lru_cache(maxsize=4096)
def _address(host: str) -> str:
    """The address that a request came from; of IPv6 the network, or one caller would have 2⁶⁴ names."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return "unknown"  # a local socket, or what a trusted proxy passed on from a hostile header
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, IPV6_HOME), strict=False))
