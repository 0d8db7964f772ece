"""Requests resolve to points by the documented rules, for any valid table; others are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lccl.errors import QualityError
from lccl.operating_points import OperatingPointTable
from lccl.plan.run import RunOptions
from lccl.request import QualityRequest, resolve
from tests.lccl.points import BY_HAND, LEAVING, point, tables


def wanted(table, **quality):
    return resolve(table, QualityRequest(**quality)).wanted


def within(table, share):
    low, high = table.sparsity_range
    return min(high, low + share * (high - low))


# a target


@given(tables(), st.floats(0, 1))
def test_a_sparsity_lies_between_its_neighbours(table, share):
    sparsity = within(table, share)
    served = wanted(table, sparsity=sparsity)
    below = max((one for one in table.points if one.skip_ratio <= sparsity), key=lambda one: one.skip_ratio)
    above = min((one for one in table.points if one.skip_ratio >= sparsity), key=lambda one: one.skip_ratio)
    assert served.skip_ratio == sparsity
    for low, threshold, high in zip(
        below.setting.thresholds, served.setting.thresholds, above.setting.thresholds, strict=True
    ):
        assert low <= threshold <= high
    assert (served.accuracy, served.accuracy_interval) == (above.accuracy, above.accuracy_interval)
    assert served.drop == above.drop


@given(tables(), st.floats(0, 1), st.floats(0, 1))
def test_more_sparsity_never_lowers_a_threshold(table, first, second):
    less, more = (within(table, share) for share in sorted((first, second)))
    pairs = zip(
        wanted(table, sparsity=less).setting.thresholds,
        wanted(table, sparsity=more).setting.thresholds,
        strict=True,
    )
    assert all(low <= high for low, high in pairs)


@given(tables(), st.floats(0, 1))
def test_at_or_below_exacts_own_ratio_it_is_exact(table, share):
    served = wanted(table, sparsity=share * table.exact.skip_ratio)
    assert served == wanted(table, operating_point="exact") == wanted(table)
    assert served.name == "exact"
    assert not any(served.setting.thresholds)


@given(tables(highest=0.99), st.floats(1e-6, 1))
def test_beyond_the_last_point_it_is_refused_with_the_range(table, share):
    low, high = table.sparsity_range
    sparsity = high + share * (1 - high)
    with pytest.raises(QualityError, match=f"offers {low:.3f} to {high:.3f}"):
        wanted(table, sparsity=sparsity)


@given(tables())
def test_a_points_own_name_and_ratio_give_the_point(table):
    for one in table.points:
        by_name = wanted(table, operating_point=one.name)
        assert by_name == wanted(table, sparsity=one.skip_ratio)
        assert by_name == one


def test_halfway_between_two_points_thresholds_are_halfway(make_table):
    served = wanted(make_table(3), sparsity=0.325)
    first, second = (wanted(make_table(3), operating_point=name) for name in ("p25", "p40"))
    assert served.name is None
    assert served.setting.thresholds == pytest.approx(
        np.mean([first.setting.thresholds, second.setting.thresholds], axis=0)
    )
    assert served.accuracy == second.accuracy < first.accuracy


@pytest.mark.parametrize("name", ["p99", "EXACT", "", "exact "])
def test_an_unknown_point_is_refused_with_the_names(make_table, name):
    with pytest.raises(QualityError, match="use one of exact, p25, p40, p60"):
        wanted(make_table(2), operating_point=name)


# a floor


def with_bounds(*bounds):
    points = [
        point("exact" if not number else f"p{number}", [0.1 * number], 0.1 * (number + 1), bound)
        for number, bound in enumerate(bounds)
    ]
    return OperatingPointTable(tuple(points), 5000)


@pytest.mark.parametrize(
    ("floor", "name"),
    [(0.0, "exact"), (0.29, "exact"), (0.3, "p1"), (0.5, "p2"), (0.8, "p2"), (0.9, "p4"), (100, "p4")],
)
def test_a_floor_stops_before_the_first_point_that_may_lose_more(floor, name):
    """The third point fails at 0.8 although the fourth would pass: a fixed sequence stops at the first failure."""
    table = with_bounds(0.0, 0.3, 0.5, 0.9, 0.6)
    assert wanted(table, max_accuracy_drop=floor).name == name


@given(tables(), st.floats(0, 100))
def test_every_point_up_to_the_one_that_a_floor_allows_keeps_it(table, floor):
    chosen = wanted(table, max_accuracy_drop=floor)
    index = [one.name for one in table.points].index(chosen.name)
    assert all(one.drop_bound <= floor for one in table.points[1 : index + 1])
    assert index + 1 == len(table.points) or table.points[index + 1].drop_bound > floor


@given(tables(smallest=2))
def test_the_smallest_certified_drop_is_where_a_floor_first_allows_more_than_exact(table):
    smallest = table.smallest_certified_drop
    assert wanted(table, max_accuracy_drop=smallest).name != "exact"
    if smallest > 0:
        assert wanted(table, max_accuracy_drop=np.nextafter(smallest, 0)).name == "exact"


def test_exact_alone_certifies_nothing():
    assert with_bounds(0.0).smallest_certified_drop is None


@given(tables(), st.floats(0, 1), st.floats(0, 100))
def test_a_target_within_its_floor_is_served_as_without_it_and_past_it_refused(table, share, floor):
    sparsity = within(table, share)
    allowed = wanted(table, max_accuracy_drop=floor).skip_ratio
    quality = QualityRequest(sparsity=sparsity, max_accuracy_drop=floor)
    if sparsity <= allowed:
        assert resolve(table, quality).wanted == wanted(table, sparsity=sparsity)
    else:
        with pytest.raises(QualityError, match="past its own floor"):
            resolve(table, quality)


@pytest.mark.parametrize(("name", "served"), [("exact", True), ("p1", True), ("p2", False), ("p3", False)])
def test_a_named_point_is_held_to_its_floor_too(name, served):
    table, quality = with_bounds(0.0, 0.3, 0.5, 0.2), QualityRequest(operating_point=name, max_accuracy_drop=0.4)
    if served:
        assert resolve(table, quality).wanted.name == name
    else:
        with pytest.raises(QualityError, match=r"at most 0\.200 \(p1\)"):
            resolve(table, quality)


# requests that are refused


def test_two_targets_are_refused():
    with pytest.raises(QualityError, match="two targets"):
        QualityRequest(sparsity=0.4, operating_point="p40")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.001, 1.001])
def test_a_sparsity_that_is_no_share_is_refused(value):
    with pytest.raises(QualityError, match="sparsity must be"):
        QualityRequest(sparsity=value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.001, 100.001])
def test_a_floor_that_is_no_percentage_is_refused(value):
    with pytest.raises(QualityError, match="max_accuracy_drop must be"):
        QualityRequest(max_accuracy_drop=value)


@pytest.mark.parametrize(
    "quality", [{"sparsity": 0.0}, {"sparsity": 1.0}, {"max_accuracy_drop": 0.0}, {"max_accuracy_drop": 100.0}]
)
def test_the_ends_of_the_ranges_are_accepted(quality):
    assert QualityRequest(**quality) == QualityRequest(**quality)


# early exits


def test_a_confidence_by_hand_is_every_exits_with_exact_gates():
    served = wanted(LEAVING, exit_confidence=0.7)
    assert served.setting.exit_confidence == pytest.approx((0.7,) * 3)
    assert served.setting.thresholds == (0.0, 0.0)
    assert served.name is None
    assert served.skip_ratio == pytest.approx(0.4)
    assert served.gated_macs == pytest.approx(0.6e6)
    assert served.drop == BY_HAND[1].drop


def test_a_confidence_of_one_is_exact():
    assert wanted(LEAVING, exit_confidence=1) == wanted(LEAVING)


@given(st.floats(0.5, 1), st.floats(0.5, 1))
def test_less_confidence_is_never_expected_to_cost_more(first, second):
    low, high = sorted((first, second))
    settings = [wanted(LEAVING, exit_confidence=value) for value in (low, high)]
    assert settings[0].gated_macs <= settings[1].gated_macs
    assert settings[0].setting.exit_confidence <= settings[1].setting.exit_confidence


def test_between_points_exits_change_with_thresholds():
    served = wanted(LEAVING, sparsity=0.25)
    assert served.setting.exit_confidence == pytest.approx((0.9,) * 3)
    assert served.setting.thresholds == pytest.approx((0.05, 0.1))
    options = RunOptions.of([served.setting, resolve(LEAVING, QualityRequest()).wanted.setting])
    assert options.exit_confidence.tolist() == [pytest.approx([0.9] * 3), [1, 1, 1]]


@pytest.mark.parametrize("value", [0.49, 1.01, -1, float("nan"), float("inf")])
def test_a_confidence_out_of_range_is_refused(value):
    with pytest.raises(QualityError, match=r"exit_confidence must be a number from 0\.5 to 1"):
        QualityRequest(exit_confidence=value)


def test_a_confidence_is_a_target():
    with pytest.raises(QualityError, match="two targets"):
        QualityRequest(exit_confidence=0.9, sparsity=0.3)


def test_a_model_without_exits_has_no_confidence_to_set():
    with pytest.raises(QualityError, match="no early exits"):
        wanted(OperatingPointTable((point("exact", (), 0.1),), 5000), exit_confidence=0.9)


def test_a_confidence_past_its_floor_is_refused_and_one_within_may_be_lowered():
    with pytest.raises(QualityError, match="past its own floor"):
        resolve(LEAVING, QualityRequest(exit_confidence=0.6, max_accuracy_drop=1.0))
    resolution = resolve(LEAVING, QualityRequest(exit_confidence=0.95, max_accuracy_drop=1.0))
    assert [served.name for served in resolution.points] == [None, "p40"]
    assert resolution.gives_way


def test_a_confidence_within_its_floor_is_served_though_no_point_is():
    """The front's first point may lose more than the floor allows; what was measured of the confidence may not."""
    resolution = resolve(LEAVING, QualityRequest(exit_confidence=0.9, max_accuracy_drop=0.7))
    assert [served.setting.exit_confidence for served in resolution.points] == [pytest.approx((0.9,) * 3)]
