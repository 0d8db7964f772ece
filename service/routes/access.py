"""Who may use the routes: an optional API key."""

from __future__ import annotations

import hmac

from fastapi import Request

from service.errors import UnauthorisedError
from service.parts import parts_of


def require_key(request: Request) -> None:
    """Compare the key in ``Authorization: Bearer`` or ``X-API-Key`` with the settings', in constant time.

    Raises:
        UnauthorisedError: a key is set and another one, or none, was given.

    """
    wanted = parts_of(request).settings.api_key
    if wanted is None:
        return
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    given = bearer.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    if not hmac.compare_digest(given.encode(), wanted.get_secret_value().encode()):
        raise UnauthorisedError("an API key is needed: send Authorization: Bearer KEY, or X-API-Key: KEY")
