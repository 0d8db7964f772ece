"""Operating points and tables for tests, made up and drawn."""

from dataclasses import replace
from itertools import accumulate

from hypothesis import strategies as st

from lccl.operating_points import Interval, OperatingPoint, OperatingPointTable
from lccl.plan.run import Setting


def point(name, thresholds, ratio, drop_bound=0.0, accuracy=0.9, exit_confidence=()):
    interval = Interval(max(0, accuracy - 0.01), min(1, accuracy + 0.01))
    setting = Setting(tuple(thresholds), tuple(exit_confidence))
    return OperatingPoint(name, setting, ratio, 1e6, accuracy, interval, drop_bound, Interval(-200, 200), drop_bound)


@st.composite
def tables(draw, smallest=1, highest=1.0):
    layers = draw(st.integers(0, 4))
    ratio = st.floats(0.0, highest).map(abs)  # −0 and 0 are one ratio
    ratios = sorted(draw(st.lists(ratio, min_size=smallest, max_size=6, unique=True)))
    rises = st.lists(st.floats(0, 100), min_size=layers, max_size=layers)
    steps = [[0.0] * layers] + [draw(rises) for _ in ratios[1:]]
    rows = accumulate(steps, lambda old, rise: [value + more for value, more in zip(old, rise, strict=True)])
    points = [
        point(f"p{number}" if number else "exact", row, ratio, draw(st.floats(-5, 100)), draw(st.floats(0, 1)))
        for number, (row, ratio) in enumerate(zip(rows, ratios, strict=True))
    ]
    return OperatingPointTable(tuple(points), 5000)


def exiting(name, confidence, ratio, drop_bound=0.0, thresholds=(0.0, 0.0)):
    made = point(name, thresholds, ratio, drop_bound, exit_confidence=(confidence,) * 3)
    return replace(made, gated_macs=1e6 * (1 - ratio))


def with_setting(changed, **fields):
    """The point with other thresholds or exit confidences."""
    return replace(changed, setting=replace(changed.setting, **fields))


FRONT = (exiting("exact", 1.0, 0.1), exiting("p40", 0.8, 0.4, 1.0, (0.1, 0.2)))
BY_HAND = (exiting("exit 0.9", 0.9, 0.2, 0.5), exiting("exit 0.5", 0.5, 0.6, 4.0))
LEAVING = OperatingPointTable(FRONT, 5000, BY_HAND)
