"""``lccl-serve`` with another route, at which a command looks into it."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from fastapi import FastAPI

import service.app
from service.__main__ import main as serve


def serve_with(add_route: Callable[[FastAPI], None]) -> None:
    """Serve as the command line says, the application changed before."""
    create_app = service.app.create_app

    @wraps(create_app)
    def probed(*given: Any, **named: Any) -> FastAPI:
        app = create_app(*given, **named)
        add_route(app)
        return app

    service.app.create_app = probed
    serve()
