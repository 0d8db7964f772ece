"""Random networks in int8: an instruction set that differs from the reference engine in one bit is a find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lccl.engines.cpu.engine import CpuEngine, instruction_sets
from lccl.engines.reference import ReferenceEngine
from lccl.networks import NETWORKS, Architecture
from lccl.networks.lowering import lower
from lccl.networks.sidenet import SideNetSpec
from lccl.plan.run import RunOptions
from lccl.preprocessing import Preprocessing
from lccl.quantization.parameters import Quantisation
from lccl.quantization.plan import quantise
from tests.lccl.bits import same_bits
from tests.lccl.cpu.networks import GATED, HUGE, SIZES
from tests.lccl.exits import add_sidenets
from tests.lccl.int8_plans import drawn_quantisation, largest_scales
from tests.lccl.networks import gated, layers_of

SETS = [name for name, precision in instruction_sets() if precision == "int8"]
MOST = 2  # blocks of a stage


@dataclass(frozen=True)
class Case:
    """A network, how it is quantised, and what it is asked.

    Attributes:
        blocks: how many of each stage's.
        size: of its images, in pixels; ``images`` of them.
        clip: what the largest values are multiplied by; below 1 some saturate.
        exits: after which blocks an image may leave.
        cache_bytes: see :class:`CpuEngine`.

    """

    architecture: Architecture
    blocks: tuple[int, ...]
    size: int
    images: int
    clip: float
    exits: tuple[int, ...]
    threads: int
    cache_bytes: int | None
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small networks of every kind of block, gate and placement."""
    architecture = draw(st.sampled_from(GATED))
    depths, large = NETWORKS[architecture.name].depths, architecture.name in SIZES
    blocks = tuple(draw(st.integers(1, min(MOST, count))) for count in depths)
    return Case(
        architecture, blocks, draw(st.integers(16, 40) if large else st.integers(3, 14)), draw(st.integers(2, 4)),
        draw(st.sampled_from((0.3, 0.9, 1.0, 1.7))),
        tuple(sorted(draw(st.sets(st.integers(0, sum(blocks) - 1), max_size=2)))),
        draw(st.sampled_from((1, 2, 3))), draw(st.sampled_from((None, 0, 3000, HUGE))), draw(st.integers(0, 1 << 30)),
    )  # fmt: skip


def check(case: Case) -> None:
    """Run the case on the reference engine and on every instruction set.

    Raises:
        AssertionError: they differ.

    """
    random = np.random.default_rng(case.seed)
    pixels = random.integers(0, 256, (case.images, case.size, case.size, 3), dtype=np.uint8)
    starts = np.cumsum((0, *NETWORKS[case.architecture.name].depths))
    numbers = [start + number for start, count in zip(starts[:-1], case.blocks, strict=True) for number in range(count)]
    preprocessing = Preprocessing(case.size, case.size, (0.5, 0.48, 0.52), (0.25, 0.24, 0.26))
    thresholds = random.choice(
        [-np.inf, 0, 0.1, 0.2, 0.4, np.inf], (case.images, layers_of(case.architecture, tuple(numbers)))
    )
    network = gated(case.architecture, pixels, thresholds, preprocessing, numbers, case.seed)
    if not all(bool(value.isfinite().all()) for value in network.state_dict().values()):
        return  # gates of maps without variance have no weights
    if case.exits:
        add_sidenets(network, [SideNetSpec(after, int(random.integers(1, 4)), 7) for after in case.exits])
    plan = lower(network.float(), preprocessing)
    options = RunOptions(
        thresholds.astype(np.float32),
        random.choice([0.0, 0.3, 1.0], (case.images, plan.exits)).astype(np.float32),
        want_masks=True,
    )
    staying = replace(options, exit_confidence=np.ones_like(options.exit_confidence))
    values = ReferenceEngine(plan).trace(pixels, staying)[1].values
    scales = {name: case.clip * scale for name, scale in largest_scales(plan, values).items()}
    plan = quantise(plan, Quantisation(scales, drawn_quantisation(plan, case.seed).weights))
    expected = ReferenceEngine(plan, precision="int8").run(pixels, options)
    for name in SETS:
        engine = CpuEngine(plan, "int8", threads=case.threads, instruction_set=name, cache_bytes=case.cache_bytes)
        same_bits(engine.run(pixels, options), expected, name)


@contextmanager
def target(save: Callable[[bytes], None]) -> Iterator[Callable[[], None]]:
    """The test, which tells ``save`` each case before it is tried."""

    @given(cases())
    def int8(case: Case) -> None:
        save(repr(astuple(case)).encode())
        check(case)

    yield int8
