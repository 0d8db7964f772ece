"""``lccl-serve``: read the settings, run the service."""

import contextlib
import gc
import os
import signal
import sys
from types import FrameType

SWITCH_S = 0.0005  # after which a thread that runs Python gives way; an answer needs the event loop several times
YOUNG_OBJECTS = 10_000  # made before the collector looks at them; a request makes some hundred, and frees them


def main() -> None:
    """Serve until SIGTERM or SIGINT, then finish what was accepted; SIGHUP reads API keys and models again."""
    _stand_by()
    from pydantic import ValidationError
    from pydantic_settings import CliApp

    from lccl.errors import LcclError

    from .settings import Settings
    from .telemetry.logs import configure

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

        app = create_app(settings)
        config = server_config(app, settings)
    except LcclError as error:
        print(f"lccl-serve: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    gc.collect()
    gc.freeze()  # what is loaded by now, above all torch, or each later collection would scan all of it
    gc.set_threshold(YOUNG_OBJECTS)
    sys.setswitchinterval(SWITCH_S)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it has drained
        Server(config, app.state.reload, app.state.drain).run()


def _stand_by() -> None:
    """Let signals end the process while it starts, or wait.

    As a container's process 1 it would not get those that it has no handler for; elsewhere SIGHUP would kill it.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # all is read anew just now


def _end(number: int, _: FrameType | None) -> None:
    """Nothing is under way yet that would have to be finished, and an exception might be lost in what is loading."""
    with contextlib.suppress(OSError):
        os.write(2, f"lccl-serve: ended by {signal.Signals(number).name} while it started\n".encode())
    os._exit(0)


if __name__ == "__main__":
    main()
