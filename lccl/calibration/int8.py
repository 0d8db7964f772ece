"""A bundle in int8: choose its quantisation on one held-out part, measure what it loses on the other."""

from collections.abc import Callable
from dataclasses import replace

from lccl.bundle.format import Bundle
from lccl.bundle.int8 import Int8, Loss
from lccl.calibration.table import build_table, operating_point
from lccl.compiler import cpu_offers
from lccl.data import HeldOut
from lccl.engines.base import Engine
from lccl.engines.reference import ReferenceEngine
from lccl.errors import EngineError
from lccl.measurement import measure
from lccl.networks.lowering import lower
from lccl.operating_points import OperatingPoint
from lccl.plan.steps import Plan
from lccl.quantization.choice import choose_quantisation
from lccl.quantization.plan import quantise

Progress = Callable[[str], None]
RANGED, WEIGHED = 1024, 512
ENGINES = ("auto", "cpu", "reference")


def quantise_bundle(
    bundle: Bundle,
    data: HeldOut,
    engine: str = "auto",
    threads: int = 0,
    progress: Progress = lambda _: None,
    weighed: int = WEIGHED,
) -> Bundle:
    """Return the bundle with int8 weights, and with no operating points measured in int8 yet.

    A network without gates, for which there is nothing to calibrate, gets the points that it has, measured in int8.

    Scales are chosen on ``data.choose`` at exact thresholds and at those of the point nearest half the work; what int8
    loses there against fp32, image by image, is from ``data.measure``.

    Args:
        engine: ``cpu`` or ``reference``; ``auto`` is the cpu engine where it offers int8.
        weighed: how many images of ``data.choose`` costs are found on, for some forty quantisations; at most half of
            them, so that scales are not judged by the images they were made for.

    Raises:
        DataError: the data is not what the bundle was made from.
        EngineError: there is no such engine here.
        QuantisationError: the network has split convolutions, or values that are not finite.

    """
    bundle.check_held_out(data.digest)
    if engine not in ENGINES:
        raise EngineError(f"int8 runs on the engines {', '.join(ENGINES)}, not on {engine!r}")
    plan, points = lower(bundle.network, bundle.preprocessing), _weighed_points(bundle)

    def make(of: Plan) -> Engine:
        if engine == "reference" or (engine == "auto" and not cpu_offers("int8")):
            return ReferenceEngine(of, precision="auto")
        from lccl.engines.cpu.engine import CpuEngine

        return CpuEngine(of, "int8" if of.quantised else "fp32", threads=threads)

    settings = [point.setting for point in points]
    weighed = min(weighed, len(data.choose) // 2)
    ranged, last = data.choose.images[: min(RANGED, len(data.choose) - weighed)], data.choose.images[-weighed:]
    quantisation = choose_quantisation(plan, ranged, last, settings, make, progress)
    progress("measuring what int8 loses")
    floating, integers = make(plan), make(quantise(plan, quantisation))
    losses = {str(point.name): _loss(floating, integers, data, point) for point in points}
    table = None
    if not plan.layers:
        table, _ = build_table(integers, data, {str(point.name): point.setting for point in bundle.table.points[1:]})
    return replace(bundle, int8=Int8(quantisation, losses, table), digest="")


def _weighed_points(bundle: Bundle) -> list[OperatingPoint]:
    """Exact, and where there are others the one whose skip ratio is nearest to a half."""
    exact, *others = bundle.table.points
    return [exact, *sorted(others, key=lambda point: abs(point.skip_ratio - 0.5))[:1]]


def _loss(floating: Engine, quantised: Engine, data: HeldOut, point: OperatingPoint) -> Loss:
    """What int8 loses at a point's setting, paired image by image."""
    before, after = (measure(engine, data.measure, point.setting) for engine in (floating, quantised))
    stated = operating_point(str(point.name), after, before, floating.shape)
    return Loss(
        stated.drop,
        stated.drop_interval,
        (before.accuracy, after.accuracy),
        (before.skip_ratio(floating.shape), after.skip_ratio(quantised.shape)),
        len(data.measure),
    )
