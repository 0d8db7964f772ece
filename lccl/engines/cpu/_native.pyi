"""The extension module that native/module.cpp defines."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lccl.plan.memory import PlanMemory
from lccl.plan.steps import Plan

_Floats = NDArray[np.float32]
_Integers = NDArray[np.int64]
_Masks = Sequence[NDArray[np.uint8]] | None

def instruction_sets() -> list[tuple[str, str]]: ...
def second_level_cache() -> int: ...

class Executor:
    def __init__(
        self,
        plan: Plan,
        memory: PlanMemory,
        instruction_set: str,
        precision: str,
        threads: int,
        streams: int,
        cache_bytes: int,
    ) -> None: ...
    @property
    def instruction_set(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def streams(self) -> int: ...
    @property
    def groups(self) -> bool: ...
    def run(
        self,
        images: NDArray[np.uint8] | _Floats,
        thresholds: _Floats,
        exit_confidence: _Floats,
        logits: _Floats,
        kept: _Integers,
        executed: _Integers,
        exit_index: _Integers,
        forced: _Masks,
        masks: _Masks,
        seconds: NDArray[np.float64] | None,
        sharing: bool = False,
    ) -> None: ...
    def run_step(
        self,
        step: int,
        inputs: Mapping[str, _Floats],
        thresholds: _Floats,
        kept: _Integers,
        executed: _Integers,
        forced: _Masks,
        masks: _Masks,
    ) -> dict[str, _Floats]: ...
