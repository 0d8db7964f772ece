"""``lccl-serve``: read the settings, run the service."""

import contextlib
import gc
import signal
import sys

from pydantic import ValidationError
from pydantic_settings import CliApp

from lccl.errors import LcclError

from .settings import Settings
from .telemetry.logs import configure

YOUNG_OBJECTS = 10_000  # made before the collector looks at them; a request makes some hundred, and frees them


def main() -> None:
    """Serve until SIGTERM or SIGINT, then finish what was accepted."""
    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        for complaint in error.errors():
            name = "_".join(str(part) for part in complaint["loc"]) or "settings"
            print(f"lccl-serve: {name}: {complaint['msg']}", file=sys.stderr)
        raise SystemExit(2) from None
    configure(settings.log_level)
    try:
        from .app import create_app
        from .transport.server import Server, server_config

        config = server_config(create_app(settings), settings)
    except LcclError as error:
        print(f"lccl-serve: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    gc.collect()
    gc.freeze()  # what is loaded by now, above all torch, or each later collection would scan all of it
    gc.set_threshold(YOUNG_OBJECTS)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it has drained
        Server(config).run()


if __name__ == "__main__":
    main()
