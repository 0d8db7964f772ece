"""The life of a process that serves: signals while it starts, what is tuned before it serves, and the server itself."""

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from .auth.windows import Windows
from .everywhere import Everywhere
from .settings import Settings

if TYPE_CHECKING:
    from .transport.acceptor import Handed

SWITCH_S = 0.0005  # after which a thread that runs Python gives way; an answer needs the event loop several times
YOUNG_OBJECTS = 10_000  # made before the collector looks at them; a request makes some hundred, and frees them


def run(
    settings: Settings,
    everywhere: Everywhere | None = None,
    windows: Windows | None = None,
    handed: "Handed | None" = None,
    on_start: Callable[[], Awaitable[None]] | None = None,
    on_end: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was accepted; SIGHUP reads API keys and models again.

    Args:
        everywhere, windows: what several processes do together; of :func:`service.app.create_app`.
        handed, on_start, on_end: of :class:`service.transport.server.Server`.

    Raises:
        LcclError: the service cannot start.

    """
    from .app import create_app
    from .transport.server import Server, server_config

    app = create_app(settings, everywhere, windows)
    config = server_config(app, settings, handed.left if handed else lambda: None)
    settle_in()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it has drained
        Server(config, app.state.reload, app.state.drain, handed, on_start, on_end).run()


def settle_in() -> None:
    """Set what makes a process quick that serves from now on, once all is loaded."""
    gc.collect()
    gc.freeze()  # what is loaded by now, above all torch, or each later collection would scan all of it
    gc.set_threshold(YOUNG_OBJECTS)
    sys.setswitchinterval(SWITCH_S)


def stand_by(what: str = "lccl-serve") -> None:
    """Let signals end the process while it starts, or wait; ``what`` ends so is told, if it has a name.

    As a container's process 1 it would not get those that it has no handler for; elsewhere SIGHUP would kill it.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, partial(_end, what))
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # all is read anew just now


def _end(what: str, number: int, _: FrameType | None) -> None:
    """Nothing is under way yet that would have to be finished, and an exception might be lost in what is loading."""
    with contextlib.suppress(OSError):
        os.write(2, f"{what}: ended by {signal.Signals(number).name} while it started\n".encode() if what else b"")
    os._exit(0)
