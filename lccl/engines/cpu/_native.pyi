"""The extension module that native/module.cpp defines."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]
_Integers = NDArray[np.int64]
_Masks = Sequence[NDArray[np.uint8]] | None

def instruction_sets() -> list[tuple[str, str]]: ...
def second_level_cache() -> int: ...

class Program:
    def __init__(
        self,
        instruction_set: str,
        bf16: bool,
        threads: int,
        streams: int,
        sets: int,
        layers: int,
        exits: int,
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
    def add_buffer(self, channels: int, height: int, width: int) -> int: ...
    def add_normalise(self, mean: _Floats, std: _Floats, raw: int) -> None: ...
    def add_convolution(
        self,
        input: int,  # noqa: A002
        weight: _Floats,
        stride: int,
        scale: _Floats | None,
        shift: _Floats | None,
        relu: bool,
        gate: tuple[int, int, _Floats, _Floats, _Floats] | None,
        residual: int,
        residual_stride: int,
        raw: int,
        activated: int,
        activated_scale: _Floats | None,
        activated_shift: _Floats | None,
    ) -> None: ...
    def add_max_pool(self, input: int, kernel: int, stride: int, raw: int) -> None: ...  # noqa: A002
    def add_average_pool(self, input: int, grid: int, raw: int) -> None: ...  # noqa: A002
    def add_exit(
        self,
        exit: int,  # noqa: A002
        input: int,  # noqa: A002
        hidden_weight: _Floats,
        hidden_bias: _Floats,
        weight: _Floats,
        bias: _Floats,
    ) -> None: ...
    def add_classifier(self, input: int, weight: _Floats, bias: _Floats) -> None: ...  # noqa: A002
    def finish(self) -> None: ...
    def run(
        self,
        images: NDArray[np.uint8] | _Floats,
        thresholds: _Floats,
        norm_set: _Integers,
        exit_confidence: _Floats,
        logits: _Floats,
        kept: _Integers,
        executed: _Integers,
        exit: _Integers,  # noqa: A002
        forced: _Masks,
        masks: _Masks,
        seconds: NDArray[np.float64] | None,
        sharing: bool = False,
    ) -> None: ...
    def run_step(
        self,
        step: int,
        inputs: Sequence[tuple[int, _Floats]],
        thresholds: _Floats,
        norm_set: _Integers,
        kept: _Integers,
        executed: _Integers,
        forced: _Masks,
        masks: _Masks,
    ) -> list[tuple[int, int, _Floats]]: ...
