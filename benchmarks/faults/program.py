"""``lccl-serve`` on a device with faults: images of one shade make it fail, each shade in a way of its own."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_settings import CliApp

from lccl.plan.run import RunOptions, RunOutput
from service.app import create_app
from service.settings import Settings
from service.telemetry.logs import configure
from service.transport.server import Server, server_config

RAISES, NO_MEMORY, NOT_FINITE, STALLS = 11, 22, 33, 44  # shades
STALL_S = 0.5


class Faulty:
    """An engine that fails on whole batches when one of their images is to fail."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, images: NDArray[Any], options: RunOptions, *, sharing: bool = False) -> RunOutput:
        """As the engine does, or not."""
        flat = images.reshape(len(images), -1)
        shades = np.where((flat == flat[:, :1]).all(axis=1), flat[:, 0], 0)
        if (shades == RAISES).any():
            raise RuntimeError("device lost")
        if (shades == NO_MEMORY).any():
            np.empty(1 << 46)
        if (shades == STALLS).any():
            time.sleep(STALL_S)
        output: RunOutput = self._engine.run(images, options, sharing=sharing)
        output.logits[shades == NOT_FINITE] = np.inf
        return output


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = CliApp.run(Settings)
    configure(settings.log_level)
    app = create_app(settings)
    for model in app.state.registry:
        model.engine = Faulty(model.engine)
    with contextlib.suppress(KeyboardInterrupt):
        Server(server_config(app, settings)).run()


if __name__ == "__main__":
    main()
