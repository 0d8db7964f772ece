"""Which names the service answers to (``Host``), and pages of which other origins may read its answers (CORS)."""

import ipaddress
import re
from collections.abc import Callable, MutableSequence
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import Scope

from .exchange import header

AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^:\[\]]*))(?::\d*)?")
METHODS = ("GET", "HEAD", "POST")
ASKED = (
    "Authorization", "X-API-Key", "X-Request-ID", "X-LCCL-Sparsity", "X-LCCL-Operating-Point",
    "X-LCCL-Max-Accuracy-Drop", "X-LCCL-Deadline-Ms", "X-LCCL-Exit-Confidence", "Inference-Header-Content-Length",
    "Traceparent", "Tracestate",
)  # fmt: skip
PRIVATE_NETWORK = b"access-control-request-private-network"  # of a draft; browsers that ask do not insist
TOLD = ("X-Request-ID", "Retry-After", "WWW-Authenticate", "Allow", "Inference-Header-Content-Length")


def host_check(allowed: str, listens_on: str) -> Callable[[str], bool] | None:
    """Tells whether the service answers to a ``Host``; None where it answers to all.

    A page whose owner points its name at this machine (DNS rebinding) is given away by that name. Addresses are not
    names and always answered to, as is an empty ``Host``, which no browser sends.

    Args:
        allowed: names, separated by commas, or ``*``; ``*.example.com`` is all names below it. Empty is ``localhost``
            alone where the service listens on a loopback address, and all names elsewhere.

    """
    names = {name.strip().lower() for name in allowed.split(",") if name.strip()}
    if not names and is_loopback(listens_on):
        names = {"localhost"}
    if not names or "*" in names:
        return None
    below = tuple(name[1:] for name in names if name.startswith("*."))

    @lru_cache(maxsize=1024)
    def is_ours(host: str) -> bool:
        parts = AUTHORITY.fullmatch(host.lower())
        if parts is None:
            return False
        address, name = parts.groups()
        name = address or name.removesuffix(".")
        return not name or name in names or name.endswith(below) or is_address(name)

    return is_ours


def is_address(name: str) -> bool:
    """Whether a name is an address of IP."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    return host.lower() == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


class SharedOrigins:
    """What answers say to pages of other origins, as Starlette's middleware decides it.

    It is not that middleware itself because also answers are to say it that no application gives.

    Args:
        origins: such as ``https://app.example.com``, separated by commas, or ``*``.

    """

    def __init__(self, origins: str) -> None:
        self._rules = CORSMiddleware(_no_application, [origin.strip() for origin in origins.split(",")], METHODS, ASKED)

    def preflight(self, scope: Scope) -> Response | None:
        """The answer to a browser that asks before it sends a page's request; None for anything else."""
        if scope["method"] != "OPTIONS":
            return None
        headers = Headers(raw=[(name, value) for name, value in scope["headers"] if name != PRIVATE_NETWORK])
        if not {"origin", "access-control-request-method"} <= set(headers.keys()):
            return None
        return self._rules.preflight_response(headers)

    def tell(self, headers: MutableSequence[tuple[bytes, bytes]], scope: Scope) -> None:
        """Add to an answer's headers who may read it."""
        headers.append((b"vary", b"Origin"))
        origin = header(scope, b"origin")
        if origin and self._rules.is_allowed_origin(origin):
            allowed = "*" if self._rules.allow_all_origins else origin
            headers.append((b"access-control-allow-origin", allowed.encode("latin-1")))
            headers.append((b"access-control-expose-headers", ", ".join(TOLD).encode()))


async def _no_application(*_: object) -> None:
    """Never called: of the middleware, only its rules are used."""
