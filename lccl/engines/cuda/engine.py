"""Runs a plan on an NVIDIA GPU; see docs/gpu-engine.md."""

from __future__ import annotations

import threading
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lccl.engines.base import Images, check_inputs
from lccl.engines.cuda.batch import Batch, Dense, Program
from lccl.engines.cuda.devices import experimental
from lccl.engines.cuda.dispatch import Dispatch
from lccl.engines.cuda.image_program import ImageProgram
from lccl.engines.cuda.layer_program import LayerProgram, TooManyImagesError
from lccl.engines.cuda.replay import Replay, Results, Staging
from lccl.engines.cuda.tiles import Tiles, tiles_for
from lccl.errors import EngineError, InputError
from lccl.plan.run import RunOptions, RunOutput
from lccl.plan.steps import Plan

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}
LARGEST_BATCH = 256
ProgramName = Literal["auto", "layers", "image"]


class CudaEngine:
    """Keeps the contract of ``Engine``; calls from several threads are safe, they run one after the other.

    Attributes:
        tiles: which table of tiles the kernels work by.
        experimental: whether this device model has not been shown to pass the engine's tests.

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
        program: ProgramName = "auto",
    ) -> None:
        """Pack the plan's weights and take the device's memory for the largest batch.

        Args:
            plan: what to run.
            shape: its geometry.
            device: an NVIDIA GPU; a CPU where Triton's interpreter stands in for one, in tests.
            precision: ``fp16`` or ``bf16`` (weights and maps; sums, gates, exits and the classifier are float32).
            tiles: by default the table of this device model.
            batch_limit: the largest batch; halved until its maps fit into the memory that is free.
            program: ``layers`` launches kernels per layer; ``image``, for small networks, one program per image that
                runs all layers; ``auto`` takes the second where the network is small enough.

        Raises:
            EngineError: no such precision here, a plan it cannot run, or not even one image fits.

        """
        if precision not in PRECISIONS:
            raise EngineError(f"the cuda engine has no precision {precision!r}: use fp16 or bf16")
        if plan.splits:
            raise EngineError("the cuda engine does not run split convolutions: use engine reference")
        self.plan, self.shape, self.precision = plan, shape, precision
        self.device, self.tiles = device, tiles or tiles_for(_model(device))
        self.experimental = experimental(device)
        by_image = program == "image" or (program == "auto" and ImageProgram.fits(plan))
        self.program, self.batch_limit = self._program(PRECISIONS[precision], batch_limit, by_image)
        self._dispatch = Dispatch(self._break_even())
        self._replays: dict[tuple[int, torch.dtype, Dense], Replay] = {}
        self._stagings: dict[tuple[int, torch.dtype], Staging] = {}
        # One for all graphs: torch has 32 in all and gives the same again, to engines that run in other threads too.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()
        for everywhere in (False, True):  # compiles every kernel now, so that no request waits for it
            self.prepare(1, pixels=True, dense=(everywhere,) * len(plan.layers))

    def run(self, images: Images, options: RunOptions, *, sharing: bool = False) -> RunOutput:
        """See :meth:`lccl.engines.base.Engine.run`."""
        check_inputs(self.plan, images, options)
        parts = range(0, len(images), self.batch_limit)
        found = [self._run(images[at : at + self.batch_limit], _part(options, at, self.batch_limit)) for at in parts]
        return found[0] if len(found) == 1 else _joined(found)

    @torch.inference_mode()
    def _run(self, images: Images, options: RunOptions) -> RunOutput:
        count, forced = len(images), self._forced(options)
        with self._lock:
            dense = self._dispatch.choose(options.thresholds)
            staging, replay = self.prepare(count, images.dtype == np.uint8, dense)
            staging.fill(self.plan, images, options)
            replay(forced)
            results = staging.read(count)
            executed = self.program.executed_macs(results.kept, results.left, dense)
            masks = None
            if options.want_masks:
                masks = tuple(mask[:count].cpu().numpy().copy() for mask in staging.batch.masks)
            self._learn(options, results)
        return RunOutput(results.logits, results.kept, executed, results.left, masks)

    @torch.inference_mode()
    def prepare(self, count: int, pixels: bool, dense: Dense) -> tuple[Staging, Replay]:
        """The staging and graph for a batch of ``count``: those of the next power of two, made at their first use."""
        size, kind = min(1 << (count - 1).bit_length(), self.batch_limit), torch.uint8 if pixels else torch.float32
        staging = self._stagings.get((size, kind))
        if staging is None:
            staging = Staging(Batch.of(self.plan, self.shape, size, self.device, kind))
            self._stagings[size, kind] = staging
        replay = self._replays.get((size, kind, dense))
        if replay is None:
            replay = self._replays[size, kind, dense] = Replay(self.program, staging, dense, self._stream)
        return staging, replay

    def _program(self, dtype: torch.dtype, limit: int, by_image: bool) -> tuple[Program, int]:
        while True:
            try:
                if by_image:
                    return ImageProgram(self.plan, self.shape, limit, self.device, dtype), limit
                return LayerProgram(self.plan, self.shape, limit, self.device, dtype, self.tiles), limit
            except (torch.OutOfMemoryError, TooManyImagesError) as error:
                if limit == 1:
                    raise EngineError(f"the cuda engine cannot run this on {self.device}: {error}") from error
                limit //= 2

    def _break_even(self) -> list[float]:
        if not isinstance(self.program, LayerProgram):
            return [1.0] * len(self.plan.layers)
        return [self.program.tile(step).break_even for step in self.plan.gated]

    def _learn(self, options: RunOptions, results: Results) -> None:
        reached = self.shape.reached(results.left).all(axis=0)
        shares = np.where(reached, results.kept / self.shape.cells, 0)
        self._dispatch.shares.learn(options.thresholds, shares)

    def _forced(self, options: RunOptions) -> tuple[Tensor, ...] | None:
        if options.forced_masks is None:
            return None
        masks = []
        for layer, mask in zip(self.shape.layers, options.forced_masks, strict=True):
            expected = (len(options), layer.gate_groups, layer.convolution.height, layer.convolution.width)
            if mask.shape != expected:
                raise InputError(f"a forced mask must be {list(expected)}, not {list(mask.shape)}")
            masks.append(torch.from_numpy(np.array(mask, np.uint8)).to(self.device))
        return tuple(masks)


def _model(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _part(options: RunOptions, start: int, count: int) -> RunOptions:
    part = slice(start, start + count)
    forced = options.forced_masks
    return RunOptions(
        options.thresholds[part], options.norm_set[part], options.exit_confidence[part], options.want_masks,
        None if forced is None else tuple(mask[part] for mask in forced),
    )  # fmt: skip


def _joined(found: list[RunOutput]) -> RunOutput:
    masks = None
    if found[0].masks is not None:
        layers = range(len(found[0].masks))
        masks = tuple(np.concatenate([one.masks[layer] for one in found if one.masks]) for layer in layers)
    logits, kept, executed, left = (
        np.concatenate([getattr(one, name) for one in found]) for name in ("logits", "kept", "executed_macs", "exit")
    )
    return RunOutput(logits, kept, executed, left, masks)
