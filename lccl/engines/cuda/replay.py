"""A batch size's way to the device and back: pinned staging, and one CUDA graph of the copies and all kernels."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lccl.engines.base import Images, exit_confidence
from lccl.engines.cuda.batch import Batch
from lccl.engines.cuda.program import Program
from lccl.plan.run import RunOptions
from lccl.plan.steps import Plan

INPUTS = ("images", "thresholds", "exit_confidence", "valid")
OUTPUTS = ("logits", "kept", "exit_index", "listed")
# A capture begins by waiting for the whole device, which is an error while another thread captures.
_one_at_a_time = threading.Lock()


class Staging:
    """The host's side of a :class:`Batch`: memory that the device copies from and to by itself."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        pinned = batch.valid.device.type == "cuda"
        self._host = {
            name: torch.zeros_like(getattr(batch, name), device="cpu", pin_memory=pinned) for name in INPUTS + OUTPUTS
        }

    def fill(self, plan: Plan, images: Images, options: RunOptions) -> None:
        """Put a batch in; the places behind it become invalid."""
        count = len(images)
        rows = (images, options.thresholds, exit_confidence(plan, options), 1)
        for name, values in zip(INPUTS, rows, strict=True):
            self._host[name].numpy()[:count] = values
        self._host["valid"].numpy()[count:] = 0

    def send(self) -> None:
        """Copy inputs to the device, in the current stream."""
        for name in INPUTS:
            getattr(self.batch, name).copy_(self._host[name], non_blocking=True)

    def fetch(self) -> None:
        """Copy outputs from the device, in the current stream."""
        for name in OUTPUTS:
            self._host[name].copy_(getattr(self.batch, name), non_blocking=True)

    def read(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """``logits``, ``kept`` and ``exit_index`` of ``count`` images, ``listed``, once the stream is at its end."""
        logits, kept, exit_index, listed = (self._host[name].numpy() for name in OUTPUTS)
        return (
            logits[:count].copy(),
            kept[:count].astype(np.int64),
            exit_index[:count].astype(np.int64),
            listed.astype(np.int64),
        )


class Replay:
    """All that a batch size needs, captured once; nothing between the first kernel and the last waits."""

    def __init__(self, program: Program, staging: Staging, stream: torch.cuda.Stream | None) -> None:
        """Compile and warm the kernels, then capture them on ``stream``; without one, they are launched each time."""
        self.staging, self._program, self._stream = staging, program, stream
        self._graph: torch.cuda.CUDAGraph | None = None
        if stream is not None:
            with _one_at_a_time, torch.cuda.device(stream.device):
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    self._launch()
                stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                # Other threads may load models or read the device's memory meanwhile.
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    self._launch()
            self._graph = graph

    def __call__(self, forced: tuple[Tensor, ...] | None = None) -> None:
        """Run what is staged and wait for it; ``forced`` masks, which tests give, are not part of a graph."""
        if self._graph is None or self._stream is None:
            self._launch(forced)
            return
        with torch.cuda.device(self._stream.device), torch.cuda.stream(self._stream):
            if forced is None:
                self._graph.replay()
            else:
                self._launch(forced)
        self._stream.synchronize()

    def _launch(self, forced: tuple[Tensor, ...] | None = None) -> None:
        self.staging.send()
        self._program.launch(replace(self.staging.batch, forced=forced))
        self.staging.fetch()
