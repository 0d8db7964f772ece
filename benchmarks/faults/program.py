"""``lccl-serve`` on a device with faults: images of one shade make it fail, each shade in a way of its own.

A model of the version ``slow`` takes long for every image. SIGUSR1 has the garbage collected, so that what is resident
is what is kept.
"""

from __future__ import annotations

import gc
import signal
import sys
import time
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

import service.__main__
import service.processes.worker
from lccl.bundle.format import Bundle
from lccl.compiler import compile_network
from lccl.plan.run import RunOptions, RunOutput

PROGRAM = ("-m", "benchmarks.faults.program")
RAISES, NO_MEMORY, NOT_FINITE, STALLS = 11, 22, 33, 44  # shades
STALL_S = 0.5
SLOW, SLOW_S = "slow", 0.02  # seconds that each of its images takes


class Faulty:
    """An engine that fails on whole batches when one of their images is to fail."""

    def __init__(self, engine: Any, image_s: float = 0.0) -> None:
        self._engine, self._image_s = engine, image_s

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
        if self._image_s:
            time.sleep(self._image_s * len(images))
        if (shades == STALLS).any():
            time.sleep(STALL_S)
        output: RunOutput = self._engine.run(images, options, sharing=sharing)
        output.logits[shades == NOT_FINITE] = np.inf
        return output


def compile_faulty(bundle: Bundle, **how: Any) -> Faulty:
    """A bundle's engine, with its faults."""
    return Faulty(compile_network(bundle, **how), SLOW_S if bundle.version == SLOW else 0.0)


def main() -> None:
    """Serve as ``lccl-serve`` does, or as one of its processes, until SIGTERM or SIGINT."""
    signal.signal(signal.SIGUSR1, lambda *_: gc.collect())
    is_worker = sys.argv[1:2] and sys.argv[1].isdigit()
    with (
        mock.patch("service.app.compile_network", compile_faulty),
        mock.patch("service.processes.hired.WORKER", "benchmarks.faults.program"),
    ):
        (service.processes.worker.main if is_worker else service.__main__.main)()


if __name__ == "__main__":
    main()
