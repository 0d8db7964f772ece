"""Runs a plan on an NVIDIA GPU; docs/gpu-engine.md has the reasons.

The way of a batch:

1. ``engine``   cuts it at ``batch_limit`` and takes the graph of the next power of two, captured at its first use.
2. ``replay``   stages it in pinned memory; the graph copies it to its ``batch`` on the device, runs the kernels, copies
                what they wrote back.
3. ``program``  is those kernels (``convolutions``, ``small_steps``), on maps and scratch that ``workspace`` holds.
4. ``kernels``  the gate's writes the mask, the list of kept positions and what skipped cells hold; the convolution's
                reads the list's length on the device and computes those positions alone.
5. ``executed`` counts what the tiles came to, from the lists' lengths that came back.

At load: ``layout`` says how maps lie, ``packing`` lays out weights, ``tiles`` chooses sizes; ``tune`` finds them.
"""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import Tensor

from lccl.engines.base import Images, checked_images
from lccl.engines.cuda.batch import Batch
from lccl.engines.cuda.devices import experimental
from lccl.engines.cuda.program import Program
from lccl.engines.cuda.replay import Replay, Staging
from lccl.engines.cuda.tiles import Tiles, tiles_for
from lccl.errors import EngineError, InputError
from lccl.plan.geometry import shape_of
from lccl.plan.run import RunOptions, RunOutput
from lccl.plan.steps import Plan

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}
LARGEST_BATCH = 256


class CudaEngine:
    """Keeps the contract of ``Engine``; calls from several threads are safe, they run one after the other.

    Attributes:
        tiles: which table of tiles the kernels work by.
        experimental: whether this device model has not been shown to pass the engine's tests.
        program: the plan's kernels.

    """

    name = "cuda"
    streams = 1

    def __init__(
        self,
        plan: Plan,
        device: torch.device,
        precision: str = "fp16",
        *,
        tiles: Tiles | None = None,
        batch_limit: int = LARGEST_BATCH,
    ) -> None:
        """Pack the plan's weights and take the device's memory for the largest batch.

        Args:
            plan: what to run.
            device: an NVIDIA GPU; a CPU where Triton's interpreter stands in for one, in tests.
            precision: ``fp16`` or ``bf16`` (weights and maps; sums, gates, exits and the classifier are float32).
            tiles: by default the table of this device model.
            batch_limit: the largest batch; halved until its maps fit into the memory that is free.

        Raises:
            EngineError: no such precision here, a plan it cannot run, or not even one image fits.

        """
        if precision not in PRECISIONS:
            raise EngineError(f"the cuda engine has no precision {precision!r}: use fp16 or bf16")
        if plan.splits:
            raise EngineError("the cuda engine does not run split convolutions: use engine reference")
        self.plan, self.shape, self.precision = plan, shape_of(plan), precision
        self.device, self.tiles = device, tiles or tiles_for(_model(device))
        self.experimental = experimental(device)
        self.program, self.batch_limit = self._program(PRECISIONS[precision], batch_limit)
        self._replays: dict[tuple[int, torch.dtype], Replay] = {}
        # One for all graphs: torch has 32 in all and gives the same again, to engines that run in other threads too.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()
        with torch.inference_mode():
            self._replay(1, torch.uint8)  # compiles every kernel now, so that no request waits for it

    def run(self, images: Images, options: RunOptions, *, sharing: bool = False) -> RunOutput:
        """See :meth:`lccl.engines.base.Engine.run`."""
        images = checked_images(self.plan, images, options)
        starts = range(0, len(images), self.batch_limit)
        outputs = [self._run(images[at : at + self.batch_limit], _part(options, at, self.batch_limit)) for at in starts]
        return outputs[0] if len(outputs) == 1 else _joined(outputs)

    @torch.inference_mode()
    def _run(self, images: Images, options: RunOptions) -> RunOutput:
        count, forced = len(images), self._forced(options)
        with self._lock:
            replay = self._replay(count, torch.uint8 if images.dtype == np.uint8 else torch.float32)
            replay.staging.fill(self.plan, images, options)
            replay(forced)
            (logits, kept, exit_index, listed), masks = replay.staging.read(count), None
            if options.want_masks:
                masks = tuple(mask[:count].cpu().numpy().copy() for mask in replay.staging.batch.masks)
        executed = self.program.counting.executed_macs(kept, exit_index, listed)
        return RunOutput(logits, kept, executed, exit_index, masks)

    def _replay(self, count: int, kind: torch.dtype) -> Replay:
        """The graph for a batch of ``count``: that of the next power of two, made at its first use."""
        size = min(1 << (count - 1).bit_length(), self.batch_limit)
        if (size, kind) not in self._replays:
            staging = Staging(Batch.of(self.plan, size, self.device, kind))
            self._replays[size, kind] = Replay(self.program, staging, self._stream)
        return self._replays[size, kind]

    def _program(self, dtype: torch.dtype, limit: int) -> tuple[Program, int]:
        while True:
            try:
                return Program(self.plan, limit, self.device, dtype, self.tiles), limit
            except (torch.OutOfMemoryError, EngineError) as error:
                if limit == 1:
                    raise EngineError(f"the cuda engine cannot run this on {self.device}: {error}") from error
                limit //= 2

    def _forced(self, options: RunOptions) -> tuple[Tensor, ...] | None:
        if options.forced_masks is None:
            return None
        for layer, mask in zip(self.shape.layers, options.forced_masks, strict=True):
            expected = (len(options), layer.gate_groups, layer.convolution.height, layer.convolution.width)
            if mask.shape != expected:
                raise InputError(f"a forced mask must be {list(expected)}, not {list(mask.shape)}")
        return tuple(torch.from_numpy(np.array(mask, np.uint8)).to(self.device) for mask in options.forced_masks)


def _model(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _part(options: RunOptions, start: int, count: int) -> RunOptions:
    part, forced = slice(start, start + count), options.forced_masks
    return RunOptions(
        options.thresholds[part], options.exit_confidence[part], options.want_masks,
        None if forced is None else tuple(mask[part] for mask in forced),
    )  # fmt: skip


def _joined(outputs: list[RunOutput]) -> RunOutput:
    by_layer = zip(*(output.masks or () for output in outputs), strict=True)
    return RunOutput(
        np.concatenate([output.logits for output in outputs]),
        np.concatenate([output.kept for output in outputs]),
        np.concatenate([output.executed_macs for output in outputs]),
        np.concatenate([output.exit_index for output in outputs]),
        None if outputs[0].masks is None else tuple(np.concatenate(layer) for layer in by_layer),
    )
