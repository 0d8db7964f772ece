"""The native program of a small plan, put together by hand, and the arrays that it takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lccl.engines.cpu import _native
from lccl.plan.memory import BufferMemory, PlanMemory
from lccl.plan.steps import Affine, AveragePool, Buffer, Classify, Convolve, Exit, Gate, Normalise, Plan

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


def ones(channels):
    return Affine(floats(channels), floats(channels))


def convolution(raw="out", **changed):
    """To 8 channels, with a gate of two maps."""
    fields = {
        "name": "it", "input": "image", "weight": floats(8, 3, 3, 3), "stride": 1, "affine": ones(8), "relu": True,
        "gate": gate(), "raw": raw,
    }  # fmt: skip
    return Convolve(**fields | changed)


def gate(**changed):
    fields = {"name": "it", "layer": 0, "input": "image", "weight": floats(2, 3, 3, 3), "affine": ones(2)}
    return Gate(**fields | changed)


def early_exit(**changed):
    fields = {
        "exit": 0, "input": "parts", "hidden_weight": floats(6, 8, 2, 2), "hidden_bias": floats(6),
        "weight": floats(4, 6), "bias": floats(4),
    }  # fmt: skip
    return Exit(**fields | changed)


def classifier(**changed):
    return Classify(**{"input": "features", "weight": floats(4, 8), "bias": floats(4)} | changed)


IMAGE, OUT = Buffer("image", 3, 5, 4), Buffer("out", 8, 5, 4)
FEATURES, PARTS = Buffer("features", 8, 1, 1), Buffer("parts", 8, 2, 2)
NORMALISE = Normalise(floats(3), floats(3), "image")
POOL, POOL_PARTS = AveragePool("out", "features"), AveragePool("out", "parts", 2)


def plan_of(*between, buffers=(), layers=("it",), exits=0):
    """An image of 5 × 4 positions and 3 channels, the steps given, features and 4 classes."""
    return Plan((IMAGE, *buffers), (NORMALISE, *between), layers, 4, exits)


def small(convolve=None):
    """A gated convolution between the image and the features."""
    return plan_of(convolve or convolution(), POOL, classifier(), buffers=(OUT, FEATURES))


def with_exit(exits=1, *, early=None):
    steps = convolution(), POOL_PARTS, early or early_exit(), POOL, classifier()
    return plan_of(*steps, buffers=(OUT, PARTS, FEATURES), exits=exits)


def memory_of(plan, in_place=(), pooled_alone=(), **changed):
    """Every written buffer apart and all the time, with a border of 3; ``changed`` by buffer."""
    written = {name for step in plan.steps for name in getattr(step, "writes", ())}
    buffers = {}
    for buffer in plan.buffers:
        pooled = any(isinstance(step, AveragePool) and step.raw == buffer.name for step in plan.steps)
        border, last = 0 if pooled else 3, len(plan.steps) - 1
        if buffer.name in written:
            alone = BufferMemory(buffer.name, border, 0, last, non_negative=False, pooled=pooled, readers=())
            buffers[buffer.name] = replace(alone, **changed.get(buffer.name, {}))
    return PlanMemory(buffers, frozenset(in_place), frozenset(pooled_alone))


def executor(plan=None, memory=None, **options):
    plan = small() if plan is None else plan
    settings = {"instruction_set": "portable", "precision": "fp32", "threads": 2, "streams": 1, "cache_bytes": 1 << 20}
    return _native.Executor(plan, memory_of(plan) if memory is None else memory, **settings | options)


def batch(count=2, **changed):
    """What ``run`` takes."""
    return {
        "images": np.zeros((count, 5, 4, 3), np.uint8), "thresholds": np.zeros((count, 1), np.float32),
        "exit_confidence": np.zeros((count, 0), np.float32), "logits": np.zeros((count, 4), np.float32),
        "kept": np.zeros((count, 1), np.int64), "executed": np.zeros(count, np.int64),
        "exit_index": np.zeros(count, np.int64), "forced": None, "masks": [np.zeros((count, 2, 5, 4), np.uint8)],
        "seconds": np.zeros(4),
    } | changed  # fmt: skip


def step(number=1, **changed):
    """What ``run_step`` takes."""
    whole = batch()
    for name in ("images", "exit_confidence", "logits", "exit_index", "seconds"):
        del whole[name]
    return {"step": number, "inputs": {"image": np.zeros((2, 5 + 6, 4 + 6, 3), np.float32)}} | whole | changed
