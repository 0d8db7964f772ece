"""What kernels are compiled for: maps, windows and outputs, each of them one constant of a kernel.

Every number is a field and none a property: Triton knows a compiled kernel by the text of its constants.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Map:
    """[batch, height + 2 · border, width + 2 · border, stored]; borders and channels behind ``channels`` are 0."""

    channels: int
    stored: int
    height: int
    width: int
    border: int


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of ``kernel`` taps a side, ``stride`` apart, over a map.

    Attributes:
        block: values of a window that are multiplied at once.
        stored: channels of the map, as they are stored.
        height: rows of the map with its borders; ``pitch`` positions of a row with them.
        shift: border less kernel // 2: where the first window starts, in both directions.
        masked: whether skipped cells of the map are unwritten, and 0 is taken for them.

    """

    kernel: int
    stride: int
    block: int
    stored: int
    height: int
    pitch: int
    shift: int
    masked: bool


@dataclass(frozen=True, slots=True)
class Output:
    """What becomes of a convolution's value, [channels, height, width] per image.

    Attributes:
        residual: the map that is added at every ``residual_stride``-th position; None adds nothing.
        raw: where the sum goes, and ``activated`` where its ReLU; None writes nothing.
        normalised: whether a scale and shift come before that ReLU.

    """

    channels: int
    height: int
    width: int
    residual: Map | None
    residual_stride: int
    raw: Map | None
    activated: Map | None
    normalised: bool
