"""When requests are sent and what each one is: decided from a seed, without a network."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lccl_client.load.plan import Arrivals, Stream


def arrivals(rate_per_s: float, seconds: float, kind: Arrivals, seed: int) -> NDArray[np.float64]:
    """Sorted times in [0, seconds) at which requests are due: a Poisson process, or equally spaced."""
    if kind == "uniform":
        return np.arange(0, seconds, 1 / rate_per_s)
    generator = np.random.default_rng(seed)
    count = generator.poisson(rate_per_s * seconds)
    # Given their number, a Poisson process's arrivals are independent and uniform.
    return np.sort(generator.uniform(0, seconds, count))


def picks(streams: Sequence[Stream], seed: int) -> Iterator[tuple[int, int]]:
    """Endless (stream, body) numbers: streams drawn by weight, each one's bodies in turn, in a drawn order."""
    generator = random.Random(seed)
    bodies = [itertools.cycle(generator.sample(range(len(one.bodies)), len(one.bodies))) for one in streams]
    weights = [stream.weight for stream in streams]
    while True:
        for stream in generator.choices(range(len(streams)), weights, k=256):
            yield stream, next(bodies[stream])
