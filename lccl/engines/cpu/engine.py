"""Hands a plan to the native executor, and batches to and from it."""

import numpy as np
from numpy.typing import NDArray

from lccl.engines.base import Images, checked_images, exit_confidence
from lccl.engines.cpu import _native
from lccl.engines.cpu.cores import usable_cores
from lccl.errors import EngineError, InputError
from lccl.plan.geometry import shape_of
from lccl.plan.memory import assign_memory
from lccl.plan.run import RunOptions, RunOutput
from lccl.plan.steps import Normalise, Plan

PRECISIONS = ("fp32", "bf16", "int8")
Values = dict[str, NDArray[np.float32]]


class CpuEngine:
    """Runs a plan on threads of its own; see docs/cpu-engine.md.

    Calls from several Python threads are safe. Those that share the threads run at once, up to ``streams`` of them;
    the others run one after the other.

    Attributes:
        instruction_set: what the convolutions run on: ``amx``, ``avx512_bf16``, ``avx512``, ``avx2``, ``neon``,
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
            precision: ``fp32``, ``bf16`` (weights and maps; sums, gates, exits and the classifier stay float32), or
                ``int8``, which runs quantised plans.
            threads: how many; 0 takes one per core that this process may use.
            streams: how many calls are to run at once; 1 needs no memory for others. At most as many as threads.
            instruction_set: ``auto`` takes the fastest that runs here.
            cache_bytes: weights above this are run over a group of images; by default the second-level cache.

        Raises:
            EngineError: no such precision, instruction set or number of threads here, or a plan it cannot run.

        """
        if precision not in PRECISIONS:
            raise EngineError(f"the cpu engine has no precision {precision!r}: use fp32, bf16 or int8")
        if plan.splits:
            raise EngineError("the cpu engine does not run split convolutions: use engine reference")
        if plan.quantised != (precision == "int8"):
            kind = "a quantised plan runs in int8" if plan.quantised else "int8 needs a quantised plan"
            raise EngineError(f"the cpu engine cannot run this in {precision}: {kind}")
        self.plan, self.shape, self.precision = plan, shape_of(plan), precision
        threads = threads or usable_cores()
        try:
            self._memory = assign_memory(plan)
            self._executor = _native.Executor(
                plan,
                self._memory,
                instruction_set=instruction_set,
                precision=precision,
                threads=threads,
                streams=min(streams, threads),
                cache_bytes=_native.second_level_cache() if cache_bytes is None else cache_bytes,
            )
        except (ValueError, TypeError) as error:
            raise EngineError(f"the cpu engine cannot run this: {error}") from error
        except (RuntimeError, MemoryError) as error:  # std::system_error, std::bad_alloc
            raise EngineError(f"the system gives the cpu engine no threads or no memory: {error}") from error
        self.instruction_set = self._executor.instruction_set
        self.threads, self.streams = self._executor.threads, self._executor.streams
        # Groups of eight images share large weights; small networks only spread the cost of a call.
        self.batch_limit = self.threads * (8 if self._executor.groups else 16)

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

        In int8 the values are the integers stored. The written buffers hold NaN, or 165, before. They come back with
        the border of zeros that their readers rely on; the output carries kept counts, executed MACs and masks, and no
        logits.
        """
        count = len(options)
        kept, executed = np.zeros((count, len(self.plan.layers)), np.int64), np.zeros(count, np.int64)
        masks, inputs = self._masks(count), {}
        for name, value in values.items():
            border, zero = self._memory.buffers[name].border, self._zeros(name)
            padded = np.pad(value - zero, ((0, 0), (0, 0), (border, border), (border, border))) + zero
            inputs[name] = np.ascontiguousarray(padded.transpose(0, 2, 3, 1), np.float32)
        thresholds = np.ascontiguousarray(options.thresholds, np.float32)
        written = self._executor.run_step(number, inputs, thresholds, kept, executed, self._forced(options), masks)
        outputs = {name: value.transpose(0, 3, 1, 2) for name, value in written.items()}
        return outputs, RunOutput(np.zeros((count, 0)), kept, executed, np.zeros(count, np.int64), masks)

    def _run(
        self, images: Images, options: RunOptions, seconds: NDArray[np.float64] | None, sharing: bool = False
    ) -> RunOutput:
        images = checked_images(self.plan, images, options)
        count = len(images)
        whole = images.dtype == np.uint8
        pixels: NDArray[np.uint8] | NDArray[np.float32] = (
            np.ascontiguousarray(images, np.uint8) if whole else np.ascontiguousarray(images, np.float32)
        )
        logits = np.empty((count, self.plan.classes), np.float32)
        kept, executed = np.empty((count, len(self.plan.layers)), np.int64), np.empty(count, np.int64)
        exit_index = np.empty(count, np.int64)
        masks = self._masks(count) if options.want_masks else None
        self._executor.run(
            pixels, np.ascontiguousarray(options.thresholds, np.float32), exit_confidence(self.plan, options), logits,
            kept, executed, exit_index, self._forced(options), masks, seconds, sharing,
        )  # fmt: skip
        return RunOutput(logits, kept, executed, exit_index, masks)

    def _zeros(self, name: str) -> NDArray[np.float32]:
        """The elements that stand for 0 in a buffer's channels, [channels, 1, 1]."""
        first, buffer = self.plan.steps[0], self.plan.buffer(name)
        if isinstance(first, Normalise) and first.zero is not None and name == first.raw:
            return first.zero[:, None, None].astype(np.float32)
        return np.full((buffer.channels, 1, 1), 0 if buffer.quantum is None else buffer.quantum.zero, np.float32)

    def _mask_shapes(self, count: int) -> list[tuple[int, int, int, int]]:
        convolutions = [(layer.gate_groups, layer.convolution) for layer in self.shape.layers]
        return [(count, maps, convolution.height, convolution.width) for maps, convolution in convolutions]

    def _masks(self, count: int) -> tuple[NDArray[np.uint8], ...]:
        """Room for every layer's masks, [N, G, H, W]."""
        return tuple(np.empty(shape, np.uint8) for shape in self._mask_shapes(count))

    def _forced(self, options: RunOptions) -> list[NDArray[np.uint8]] | None:
        if options.forced_masks is None:
            return None
        for mask, expected in zip(options.forced_masks, self._mask_shapes(len(options)), strict=True):
            if mask.shape != expected:
                raise InputError(f"a forced mask must be {list(expected)}, not {list(mask.shape)}")
        return [np.ascontiguousarray(mask, np.uint8) for mask in options.forced_masks]


def instruction_sets() -> list[tuple[str, str]]:
    """What this machine can run: names and precisions, fastest first."""
    return _native.instruction_sets()
