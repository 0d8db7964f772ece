"""Rates that all replicas count together, in a Redis or Valkey; while it does not answer, each counts for itself."""

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable
from contextlib import suppress

from limits import RateLimitItem, RateLimitItemPerSecond
from pydantic import SecretStr

from ..errors import StartError
from .rate_limits import RateLimits, check_count

log = logging.getLogger(__name__)
TIMEOUT_S = 0.5  # for the store to accept a connection, and to answer
CONNECTIONS = 32
LOOK_S = 1.0  # between attempts to reach a store that does not answer
PREFIX = "lccl:rate:"
# One round trip, in which no replica's clock decides. A window begins with its first request, and ends by itself.
COUNT = """
local count = redis.call("INCR", KEYS[1])
local left_ms = redis.call("PTTL", KEYS[1])
if left_ms < 0 then
  redis.call("PEXPIRE", KEYS[1], ARGV[1])
  left_ms = tonumber(ARGV[1])
end
return {count, left_ms}
"""
LOGIN, QUERY = r"([^@/?#\s]*@)?", r"(\?[^#\s]*)?"
HOST = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:(?P<port>\d{1,5}))?"
ADDRESS = re.compile(
    rf"(redis|rediss|valkey|valkeys)://{LOGIN}{HOST}(/\d*)?{QUERY}|(redis|valkey)\+unix://{LOGIN}/[^?#\s]+{QUERY}"
)


def check_store(secret: SecretStr) -> SecretStr:
    """Check the address of a store; the complaint does not repeat it, since there may be a password in it.

    Raises:
        ValueError: it is none.

    """
    address = ADDRESS.fullmatch(secret.get_secret_value())
    if address is None or int(address["port"] or 0) > 65535:
        raise ValueError(
            "is no address of a store: write redis://HOST:PORT/0, rediss://… for TLS, redis+unix:///PATH for a socket; "
            "valkey in place of redis is the same, and USER:PASSWORD@, percent-encoded, may come before HOST"
        )
    return secret


class SharedRates:
    """Counts requests by caller for all replicas that name the same store.

    A key of the store has a hash of the caller and the rate in its name, and ends with its window.

    Args:
        store: an address that :func:`check_store` takes.
        local: counts while the store does not answer, so that nobody is shut out and nobody is without a limit.
        tell: called with whether the store answers, once that is known and when it changes.

    Raises:
        StartError: the package is missing, or does not take the address.

    """

    def __init__(self, store: SecretStr, local: RateLimits, tell: Callable[[bool], object]) -> None:
        try:
            from redis import exceptions
            from redis.asyncio import ConnectionPool, Redis
        except ImportError:
            raise StartError("a store of rates needs the package redis: pip install 'lccl[redis]'") from None
        address = re.sub(r"^redis\+unix", "unix", re.sub("^valkey", "redis", store.get_secret_value()))
        try:
            self._pool = ConnectionPool.from_url(
                address, max_connections=CONNECTIONS, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
            )
            self._pool.make_connection()  # type: ignore[no-untyped-call]  # opens none
        except (TypeError, ValueError, exceptions.RedisError):  # whose texts may repeat a part of it
            raise StartError("LCCL_RATE_LIMIT_STORE: the package redis does not take an option after '?'") from None
        self._count = Redis(connection_pool=self._pool).register_script(COUNT)
        self._told_errors = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._local, self._tell = local, tell
        self._answers: bool | None = None

    async def count(self, caller: str, own: RateLimitItem | None = None) -> None:
        """Count a request of a caller under its own rate, or else the default one.

        Raises:
            ServiceError, rate_limited: it has no more in this window.

        """
        rate, counted = own or self._local.default, None
        if rate is None:
            return
        if self._answers:
            async with self._turns:
                if self._answers:  # still, after others had their turns
                    counted = await self._ask(caller, rate)
        if counted is None:
            self._local.count(caller, own)
        else:
            check_count(rate, *counted)

    async def look(self) -> None:
        """Find out whether the store answers, unless it does."""
        if not self._answers:
            await self._ask("", RateLimitItemPerSecond(1))

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.aclose()

    async def _ask(self, caller: str, rate: RateLimitItem) -> tuple[int, float] | None:
        """The requests in a caller's window, with this one, and the seconds until its end; None without an answer."""
        window_s = rate.get_expiry()
        name = f"{PREFIX}{hashlib.sha256(caller.encode()).hexdigest()}:{rate.amount}/{window_s}"
        try:
            count, left_ms = await self._count([name], [1000 * window_s])
        except Exception as error:  # of whatever kind: that a request cannot be counted here is no reason to refuse it
            self._note(False, error)
            with suppress(Exception):  # it waits for the store
                await self._pool.disconnect(inuse_connections=False)  # none is of use after a restart
            return None
        self._note(True)
        return count, left_ms / 1000

    def _note(self, answers: bool, error: Exception | None = None) -> None:
        if answers == self._answers:
            return
        self._answers = answers
        self._tell(answers)
        if answers:
            log.info("the store of rates answers: replicas count together")
        else:
            log.warning(
                "the store of rates does not answer, so each replica counts for itself: %s: %s",
                type(error).__name__, self._reason(error),
            )  # fmt: skip

    def _reason(self, error: Exception | None) -> str:
        """The text of an error, or its code alone: in some a store may repeat what it was sent, passwords too."""
        code = re.match(r"[A-Z]*\b", str(error))
        return str(error) if isinstance(error, self._told_errors) or code is None else code[0]
