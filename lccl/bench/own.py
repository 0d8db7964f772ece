"""Own engines in the benchmark: the network or its plain twin, under settings made ready beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from lccl.bench.workload import Counts
from lccl.compiler import compile_network
from lccl.networks import ResNet
from lccl.plan.run import RunOptions
from lccl.preprocessing import Preprocessing

if TYPE_CHECKING:
    from lccl.engines.cpu.engine import CpuEngine


@dataclass(frozen=True, slots=True, eq=False)
class OwnEngine:
    """An engine with the batches and controls that it is measured on.

    Attributes:
        batches: each uint8 [N, H, W, 3], as the service hands them over.
        options: by setting.

    """

    engine: CpuEngine
    batches: tuple[NDArray[np.uint8], ...]
    options: Mapping[str, RunOptions]

    def runner(self, setting: str) -> Callable[[int], NDArray[np.float32]]:
        """``run(index)`` classifies the batch of that number under a setting, logits [N, classes]."""
        run, batches, options = self.engine.run, self.batches, self.options[setting]
        return lambda index: run(batches[index], options).logits

    def count(self, setting: str) -> Counts:
        """What all images kept and executed, and the exits they left by."""
        outputs = [self.engine.run(batch, self.options[setting]) for batch in self.batches]
        return Counts(
            kept=np.concatenate([output.kept for output in outputs]),
            executed=np.concatenate([output.executed_macs for output in outputs]),
            exit=np.concatenate([output.exit for output in outputs]),
        )

    def profile(self, setting: str, index: int, repeats: int) -> NDArray[np.float64]:
        """Median seconds of each of the plan's steps on one batch, float64 [steps]."""
        return self.engine.profile(self.batches[index], self.options[setting], repeats)


def own_engine(
    network: ResNet,
    preprocessing: Preprocessing,
    batches: tuple[NDArray[np.uint8], ...],
    settings: Mapping[str, tuple[tuple[float, ...], int, tuple[float, ...]]],
    *,
    precision: str,
    threads: int,
) -> OwnEngine:
    """Compile a network; ``settings`` gives thresholds, the normalisation set and exit confidences by name.

    Raises:
        EngineError: the cpu engine is not built here, or has no such precision.

    """
    made = compile_network(
        network, device="cpu", precision=precision, engine="cpu", threads=threads, preprocessing=preprocessing
    )
    engine = cast("CpuEngine", made)
    images = len(batches[0])
    options = {
        name: RunOptions.uniform(images, thresholds, norm_set, exit_confidence=sure)
        for name, (thresholds, norm_set, sure) in settings.items()
    }
    return OwnEngine(engine, batches, options)
