"""The native program by hand: a small plan, and the arrays that it takes."""

from __future__ import annotations

import numpy as np

from lccl.engines.cpu import _native

NONE = -1
REFUSED = (TypeError, ValueError)


def floats(*shape):
    return np.ones(shape, np.float32)


def misaligned(*shape, dtype=np.float32):
    """An array whose elements begin at an odd address."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(bytearray(size + 1), np.uint8, size, 1).view(dtype).reshape(shape)


def read_only(array):
    array.flags.writeable = False
    return array


def program(**options):
    settings = {
        "instruction_set": "portable",
        "bf16": False,
        "threads": 2,
        "streams": 1,
        "sets": 1,
        "layers": 1,
        "exits": 0,
        "cache_bytes": 1 << 20,
    }
    return _native.Program(**settings | options)


class Layout:
    """An image of 5 × 4 positions and 3 channels, one gated convolution to 8 channels, and 4 classes."""

    def __init__(self, **options):
        self.program = program(**options)
        self.image = self.program.add_buffer(3, 5, 4)
        self.out = self.program.add_buffer(8, 5, 4)
        self.features = self.program.add_buffer(8, 1, 1)
        self.parts = NONE

    def normalise(self, **changed):
        self.program.add_normalise(**{"mean": floats(3), "std": floats(3), "raw": self.image} | changed)
        return self

    def gate(self, layer=0, source=None, weight=None, scale=None, shift=None):
        parts = weight, scale, shift
        defaults = floats(2, 3, 3, 3), floats(1, 2), floats(1, 2)
        chosen = (default if part is None else part for part, default in zip(parts, defaults, strict=True))
        return (layer, self.image if source is None else source, *chosen)

    def convolve(self, **changed):
        arguments = {
            "input": self.image, "weight": floats(8, 3, 3, 3), "stride": 1, "scale": floats(1, 8),
            "shift": floats(1, 8), "relu": True, "gate": self.gate(), "residual": NONE, "residual_stride": 1,
            "raw": self.out, "activated": NONE, "activated_scale": None, "activated_shift": None,
        }  # fmt: skip
        self.program.add_convolution(**arguments | changed)
        return self

    def pool(self):
        self.program.add_average_pool(self.out, 1, self.features)
        return self

    def pool_parts(self):
        self.parts = self.program.add_buffer(8, 2, 2)
        self.program.add_average_pool(self.out, 2, self.parts)
        return self

    def exit(self, **changed):
        arguments = {
            "exit": 0, "input": self.parts, "hidden_weight": floats(6, 8, 2, 2), "hidden_bias": floats(6),
            "weight": floats(4, 6), "bias": floats(4),
        }  # fmt: skip
        self.program.add_exit(**arguments | changed)
        return self

    def classify(self, **changed):
        self.program.add_classifier(**{"input": self.features, "weight": floats(4, 8), "bias": floats(4)} | changed)
        return self

    def finish(self):
        self.program.finish()
        return self.program


def finished(**options):
    return Layout(**options).normalise().convolve().pool().classify().finish()


def with_exit(**options):
    one = Layout(**{"exits": 1} | options).normalise().convolve().pool_parts().exit()
    return one.pool().classify().finish()


def batch(count=2, **changed):
    """What ``run`` takes."""
    return {
        "images": np.zeros((count, 5, 4, 3), np.uint8), "thresholds": np.zeros((count, 1), np.float32),
        "norm_set": np.zeros(count, np.int64), "exit_confidence": np.zeros((count, 0), np.float32),
        "logits": np.zeros((count, 4), np.float32), "kept": np.zeros((count, 1), np.int64),
        "executed": np.zeros(count, np.int64), "exit": np.zeros(count, np.int64), "forced": None,
        "masks": [np.zeros((count, 2, 20), np.uint8)], "seconds": np.zeros(4),
    } | changed  # fmt: skip


def step(number=1, **changed):
    """What ``run_step`` takes."""
    whole = batch()
    for name in ("images", "exit_confidence", "logits", "exit", "seconds"):
        del whole[name]
    return {"step": number, "inputs": [(0, np.zeros((2, 3, 5, 4), np.float32))]} | whole | changed
