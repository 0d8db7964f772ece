"""A request's ``max_accuracy_drop`` holds on unseen images: calibration's statement, simulated many times."""

import numpy as np
import pytest

from lccl.calibration.table import operating_point
from lccl.measurement import Measurement
from lccl.operating_points import EXACT, OperatingPointTable
from lccl.plan.geometry import Convolution, GatedConvolution, NetworkShape
from lccl.plan.run import Setting
from lccl.request import QualityRequest, resolve

SHAPE = NetworkShape((GatedConvolution("only", Convolution(1, 1, 1, 1, 100), 1, 1),), 0)
IMAGES, CALIBRATIONS = 2000, 300
NOMINAL = 0.05
FLOORS = (0.5, 1.0, 2.0, 5.0)

# True drops of a model's points, in percentage points, and the share of images that change sides at each.
CURVES = {
    "falls steadily": ([0.2, 0.45, 0.55, 0.9, 1.1, 1.9, 2.1, 4.9, 5.1], [1, 2, 2, 3, 4, 5, 6, 9, 10]),
    "just above each floor": ([0.51, 1.02, 2.03, 5.05], [1, 2, 4, 9]),
    "gains before it loses": ([-0.4, -0.2, 0.3, 0.6, 1.3, 3.0, 6.0], [1, 2, 3, 4, 5, 7, 10]),
    "few images change": ([0.05, 0.3, 0.55, 1.05], [0.1, 0.4, 0.6, 1.2]),
}


def measured(rng, drops, changes):
    """The points of one calibration on fresh images: exact's rights, and each point's changes on its own images."""
    exact = rng.random(IMAGES) < 0.9
    chance = rng.random(IMAGES)
    nothing = np.zeros(IMAGES, np.int64)
    found = [Measurement(Setting((0.0,)), exact, np.full((IMAGES, 1), 90), nothing, nothing)]
    for number, (drop, change) in enumerate(zip(drops, changes, strict=True), 1):
        lost, won = (max(change, abs(drop)) + drop) / 200, (max(change, abs(drop)) - drop) / 200
        right = np.where(exact, chance >= lost / 0.9, chance < won / 0.1)
        kept = np.full((IMAGES, 1), 90 - 5 * number)
        found.append(Measurement(Setting((float(number),)), right, kept, nothing, nothing))
    names = [EXACT, *(f"p{number}" for number in range(1, len(found)))]
    points = (operating_point(name, one, found[0], SHAPE) for name, one in zip(names, found, strict=True))
    return OperatingPointTable(tuple(points), IMAGES)


@pytest.mark.parametrize("curve", CURVES)
def test_a_floor_is_broken_no_more_often_than_stated(curve):
    """Each floor's choice has a true drop above it in at most 5 % of the calibrations, and sampling error."""
    drops, changes = CURVES[curve]
    true = {EXACT: 0.0} | {f"p{number}": drop for number, drop in enumerate(drops, 1)}
    rng = np.random.default_rng(7)
    broken = dict.fromkeys(FLOORS, 0)
    for _ in range(CALIBRATIONS):
        table = measured(rng, drops, changes)
        for floor in FLOORS:
            chosen = resolve(table, QualityRequest(max_accuracy_drop=floor)).wanted.name
            broken[floor] += true[chosen] > floor
    allowed = CALIBRATIONS * NOMINAL + 3 * np.sqrt(CALIBRATIONS * NOMINAL * (1 - NOMINAL))
    assert all(count <= allowed for count in broken.values()), broken


def test_a_floor_is_used_where_there_is_room():
    """A promise is easily kept by never skipping: a point far inside the floor is chosen nearly always."""
    rng = np.random.default_rng(8)
    floor = QualityRequest(max_accuracy_drop=2)
    chosen = [resolve(measured(rng, [0.1, 0.2], [1, 1]), floor).wanted.name for _ in range(100)]
    assert chosen.count("p2") >= 95


def test_the_simulation_would_notice_a_broken_promise():
    """Judged by the measured drop instead of its bound, the same floors would be broken far too often."""
    rng = np.random.default_rng(9)
    drops, changes = CURVES["just above each floor"]
    broken = sum(measured(rng, drops, changes).points[2].drop <= 1.0 for _ in range(200))
    assert broken > 200 * 0.2
