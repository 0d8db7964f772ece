"""Hands a plan to the native program, and batches to and from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lccl.engines.base import Images, check_inputs, exit_confidence
from lccl.engines.cpu import _native
from lccl.engines.cpu.cores import usable_cores
from lccl.errors import EngineError, InputError
from lccl.plan import steps
from lccl.plan.geometry import shape_of
from lccl.plan.run import RunOptions, RunOutput
from lccl.plan.steps import Affine, Plan

NONE = -1  # no such buffer
PRECISIONS = ("fp32", "bf16")
Values = dict[str, NDArray[np.float32]]


class CpuEngine:
    """Runs a plan on threads of its own; see docs/cpu-engine.md.

    Calls from several Python threads are safe. Those that share the threads run at once, up to ``streams`` of them;
    the others run one after the other.

    Attributes:
        instruction_set: what the convolutions run on: ``amx``, ``avx512_bf16``, ``avx512``, ``avx2``,
            ``portable`` …; see :func:`instruction_sets`.
        threads: how many threads share the work.
        streams: how many calls that share the threads run at once.

    """

    name = "cpu"
    experimental = False

    def __init__(
        self,
        plan: Plan,
        precision: str = "fp32",
        *,
        threads: int = 0,
        streams: int = 1,
        instruction_set: str = "auto",
        cache_bytes: int | None = None,
    ) -> None:
        """Pack the plan's weights and start the threads.

        Args:
            plan: what to run.
            precision: ``fp32``, or ``bf16`` (weights and maps; sums, gates, exits and the classifier stay float32).
            threads: how many; 0 takes one per core that this process may use.
            streams: how many calls are to run at once; 1 needs no memory for others. At most as many as threads.
            instruction_set: ``auto`` takes the fastest that runs here.
            cache_bytes: weights above this are run over a group of images; by default the second-level cache.

        Raises:
            EngineError: no such precision, instruction set or number of threads here, or a plan it cannot run.

        """
        if precision not in PRECISIONS:
            raise EngineError(f"the cpu engine has no precision {precision!r}: use fp32 or bf16")
        if plan.splits:
            raise EngineError("the cpu engine does not run split convolutions: use engine reference")
        self.plan, self.shape, self.precision = plan, shape_of(plan), precision
        threads = threads or usable_cores()
        try:
            self._program = _native.Program(
                instruction_set=instruction_set,
                bf16=precision == "bf16",
                threads=threads,
                streams=min(streams, threads),
                sets=1,
                layers=len(plan.layers),
                exits=plan.exits,
                cache_bytes=_native.second_level_cache() if cache_bytes is None else cache_bytes,
            )
            self._buffers = _fill(self._program, plan)
        except (ValueError, TypeError) as error:
            raise EngineError(f"the cpu engine cannot run this: {error}") from error
        self.instruction_set = self._program.instruction_set
        self.threads, self.streams = self._program.threads, self._program.streams
        # Groups of eight images share large weights; small networks only spread the cost of a call.
        self.batch_limit = self.threads * (8 if self._program.groups else 16)

    def run(self, images: Images, options: RunOptions, *, sharing: bool = False) -> RunOutput:
        """See :meth:`lccl.engines.base.Engine.run`."""
        return self._run(images, options, None, sharing)

    def profile(self, images: Images, options: RunOptions, repeats: int = 10) -> NDArray[np.float64]:
        """Median seconds that each step of the plan takes, [steps]; summed over the images, shared by the threads."""
        seconds = np.zeros((repeats, len(self.plan.steps)))
        for row in seconds:
            self._run(images, options, row)
        return np.median(seconds, axis=0)

    def run_step(self, number: int, values: Values, options: RunOptions) -> tuple[Values, RunOutput]:
        """Run one step alone, for tests: from float32 [N, C, H, W] values of the buffers it reads to those it writes.

        The written buffers hold NaN before. They come back with the border of zeros that their readers rely on;
        the output carries kept counts, executed MACs and masks, and no logits.
        """
        count = len(options)
        kept, executed = np.zeros((count, len(self.plan.layers)), np.int64), np.zeros(count, np.int64)
        masks, views = self._masks(count)
        inputs = [(self._buffers[name], np.ascontiguousarray(value, np.float32)) for name, value in values.items()]
        taken = self._program.run_step(
            number, inputs, _rows(options), _sets(options), kept, executed, _forced(self.plan, options), views
        )
        names = {number: name for name, number in self._buffers.items()}
        written = {names[buffer]: value for buffer, _, value in taken}
        return written, RunOutput(np.zeros((count, 0)), kept, executed, np.zeros(count, np.int64), masks)

    def _run(
        self, images: Images, options: RunOptions, seconds: NDArray[np.float64] | None, sharing: bool = False
    ) -> RunOutput:
        check_inputs(self.plan, images, options)
        count = len(images)
        pixels: NDArray[np.uint8] | NDArray[np.float32]
        if images.dtype == np.uint8:
            pixels = np.ascontiguousarray(images, np.uint8)
        else:
            pixels = np.ascontiguousarray(images, np.float32)
        logits = np.empty((count, self.plan.classes), np.float32)
        kept, executed = np.empty((count, len(self.plan.layers)), np.int64), np.empty(count, np.int64)
        left = np.empty(count, np.int64)
        masks, views = self._masks(count) if options.want_masks else (None, None)
        self._program.run(
            pixels, _rows(options), _sets(options), exit_confidence(self.plan, options), logits, kept, executed,
            left, _forced(self.plan, options), views, seconds, sharing,
        )  # fmt: skip
        return RunOutput(logits, kept, executed, left, masks)

    def _masks(self, count: int) -> tuple[tuple[NDArray[np.uint8], ...], list[NDArray[np.uint8]]]:
        """Room for every layer's masks, [N, G, H, W], and the same as [N, G, positions]."""
        masks = tuple(
            np.empty((count, layer.gate_groups, layer.convolution.height, layer.convolution.width), np.uint8)
            for layer in self.shape.layers
        )
        return masks, [mask.reshape(*mask.shape[:2], -1) for mask in masks]


def instruction_sets() -> list[tuple[str, str]]:
    """What this machine can run: names and precisions, fastest first."""
    return _native.instruction_sets()


def _rows(options: RunOptions) -> NDArray[np.float32]:
    return np.ascontiguousarray(options.thresholds, np.float32)


def _sets(options: RunOptions) -> NDArray[np.int64]:
    return np.zeros(len(options), np.int64)


def _forced(plan: Plan, options: RunOptions) -> list[NDArray[np.uint8]] | None:
    if options.forced_masks is None:
        return None
    masks = []
    for step, mask in zip(plan.gated, options.forced_masks, strict=True):
        out = _output(plan, step)
        assert step.gate is not None
        expected = (len(options), len(step.gate.weight), out.height, out.width)
        if mask.shape != expected:
            raise InputError(f"a forced mask must be {list(expected)}, not {list(mask.shape)}")
        masks.append(np.ascontiguousarray(mask, np.uint8).reshape(*expected[:2], -1))
    return masks


def _output(plan: Plan, step: steps.Convolve) -> steps.Buffer:
    name = step.raw if step.raw is not None else step.activated.buffer if step.activated is not None else ""
    return plan.buffer(name)


def _fill(program: _native.Program, plan: Plan) -> dict[str, int]:
    """Add a plan's buffers and steps to a program; returns each buffer's number."""
    numbers = {buffer.name: program.add_buffer(buffer.channels, buffer.height, buffer.width) for buffer in plan.buffers}
    for step in plan.steps:
        match step:
            case steps.Normalise():
                program.add_normalise(_floats(step.mean), _floats(step.std), numbers[step.raw])
            case steps.Convolve():
                _add_convolution(program, step, numbers)
            case steps.MaxPool():
                program.add_max_pool(numbers[step.input], step.kernel, step.stride, numbers[step.raw])
            case steps.AveragePool():
                program.add_average_pool(numbers[step.input], step.grid, numbers[step.raw])
            case steps.Exit():
                hidden, answer = (step.hidden_weight, step.hidden_bias), (step.weight, step.bias)
                program.add_exit(step.exit, numbers[step.input], *map(_floats, (*hidden, *answer)))
            case steps.Classify():
                program.add_classifier(numbers[step.input], _floats(step.weight), _floats(step.bias))
    program.finish()
    return numbers


def _add_convolution(program: _native.Program, step: steps.Convolve, numbers: dict[str, int]) -> None:
    scale, shift = _affine(step.affine)
    activated = step.activated
    activated_scale, activated_shift = _affine(None if activated is None else activated.affine)
    gate = None
    if step.gate is not None:
        gate_scale, gate_shift = _floats(step.gate.affine.scale)[None], _floats(step.gate.affine.shift)[None]
        gate = (step.gate.layer, numbers[step.gate.input], _floats(step.gate.weight), gate_scale, gate_shift)
    program.add_convolution(
        input=numbers[step.input],
        weight=_floats(step.weight),
        stride=step.stride,
        scale=scale,
        shift=shift,
        relu=step.relu,
        gate=gate,
        residual=NONE if step.residual is None else numbers[step.residual.buffer],
        residual_stride=1 if step.residual is None else step.residual.stride,
        raw=NONE if step.raw is None else numbers[step.raw],
        activated=NONE if activated is None else numbers[activated.buffer],
        activated_scale=activated_scale,
        activated_shift=activated_shift,
    )


def _affine(affine: Affine | None) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
    return (None, None) if affine is None else (_floats(affine.scale)[None], _floats(affine.shift)[None])


def _floats(values: steps.Array | Sequence[float]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, np.float32)
