"""Quantised plans from float ones, with scales that are drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lccl.bundle.int8 import Int8
from lccl.engines.reference import ReferenceEngine
from lccl.networks.lowering import lower
from lccl.plan.run import RunOptions, Setting
from lccl.quantization.parameters import Quantisation, QuantisedWeight
from lccl.quantization.plan import quantise, round_weights, shared_scales, zero_of


def drawn_quantisation(plan, seed=0, around=0.02):
    """Scales around a size, weights rounded to fit, corrections that are not 0."""
    random = np.random.default_rng(seed)
    scales = {}
    for group in shared_scales(plan):
        scale = float(np.float32(around * random.uniform(0.5, 2)))
        scales |= dict.fromkeys(group, scale)
    weights = {
        name: QuantisedWeight(one.weight, one.scale, random.normal(0, 0.05, len(one.scale)).astype(np.float32))
        for name, one in round_weights(plan).items()
    }
    return Quantisation(scales, weights)


def largest_scales(plan, values):
    """Scales at which the largest of these values [N, C, H, W] of every map just fits."""
    scales = {}
    for group in shared_scales(plan):
        largest = max(float(values[name].abs().max()) for name in group) or 1.0
        scales |= dict.fromkeys(group, float(np.float32(largest / (127 if zero_of(plan, group[0]) else 255))))
    return scales


def drawn(plan, seed=0, around=0.02):
    return quantise(plan, drawn_quantisation(plan, seed, around))


def drawn_maps(plan, step, images, seed):
    """uint8 maps [N, C, H, W] of all that a step reads, within what stores give."""
    random = np.random.default_rng(seed)
    maps = {}
    for name in sorted({read.buffer for read in step.reads}):
        buffer = plan.buffer(name)
        low = 0 if buffer.quantum.zero == 0 else 1
        maps[name] = random.integers(low, 256, (images, buffer.channels, buffer.height, buffer.width), dtype=np.uint8)
    return maps


def with_int8(bundle, table=None):
    """The bundle quantised by ranges over some noise, with a table of int8 where one is given."""
    plan = lower(bundle.network, bundle.preprocessing)
    engine = ReferenceEngine(plan)
    exact = Setting.exact(len(plan.layers), plan.exits)
    pixels = np.random.default_rng(0).integers(0, 256, (4, plan.image.height, plan.image.width, 3), dtype=np.uint8)
    _, state = engine.trace(pixels, RunOptions.of([exact] * 4))
    quantisation = Quantisation(largest_scales(plan, state.values), round_weights(plan))
    return replace(bundle, int8=Int8(quantisation, table=table))
