"""Servers of the small application."""

from __future__ import annotations

import pytest

from tests.service.transport.raw import running


@pytest.fixture(params=["uvloop", "asyncio"])
def server(request):
    with running(request.param) as server:
        yield server


@pytest.fixture
def parsing_server():
    """On one event loop, for what the parser alone decides."""
    with running() as server:
        yield server
