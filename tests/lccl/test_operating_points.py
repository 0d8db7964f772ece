"""Wishes become settings by the documented rules, for any valid table; other tables and wishes are refused."""

import json
from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lccl.errors import BundleError, QualityError
from lccl.operating_points import Interval, OperatingPoint, OperatingPointTable, QualityRequest, Setting, controls_for

RATIOS = (0.1, 0.25, 0.4, 0.6)


def point(name, thresholds, ratio, drop_bound=0.0, norm_set=0, accuracy=0.9):
    interval = Interval(max(0, accuracy - 0.01), min(1, accuracy + 0.01))
    return OperatingPoint(
        name, tuple(thresholds), norm_set, ratio, 1e6, accuracy, interval, drop_bound, Interval(-200, 200), drop_bound
    )


@st.composite
def tables(draw, smallest=1, highest=1.0):
    layers = draw(st.integers(0, 4))
    ratio = st.floats(0.0, highest).map(abs)  # −0 and 0 are one ratio
    ratios = sorted(draw(st.lists(ratio, min_size=smallest, max_size=6, unique=True)))
    rises = st.lists(st.floats(0, 100), min_size=layers, max_size=layers)
    steps = [[0.0] * layers] + [draw(rises) for _ in ratios[1:]]
    thresholds = accumulate(steps, lambda old, rise: [one + more for one, more in zip(old, rise, strict=True)])
    points = [
        point(
            "exact" if not number else f"p{number}",
            row,
            ratio,
            draw(st.floats(-5, 100)),
            draw(st.integers(0, 2)),
            draw(st.floats(0, 1)),
        )
        for number, (row, ratio) in enumerate(zip(thresholds, ratios, strict=True))
    ]
    return OperatingPointTable(tuple(points), 5000)


def within(table, share):
    low, high = table.sparsity_range
    return min(high, low + share * (high - low))


# a target


@given(tables(), st.floats(0, 1))
def test_a_sparsity_lies_between_its_neighbours(table, share):
    sparsity = within(table, share)
    setting = table.resolve(QualityRequest(sparsity=sparsity))
    below = max((one for one in table.points if one.skip_ratio <= sparsity), key=lambda one: one.skip_ratio)
    above = min((one for one in table.points if one.skip_ratio >= sparsity), key=lambda one: one.skip_ratio)
    assert setting.sparsity == sparsity
    for low, threshold, high in zip(below.thresholds, setting.thresholds, above.thresholds, strict=True):
        assert low <= threshold <= high
    assert setting.norm_set in (below.norm_set, above.norm_set)
    assert (setting.expected_accuracy, setting.accuracy_interval) == (above.accuracy, above.accuracy_interval)
    assert setting.expected_accuracy_drop == above.drop


@given(tables(), st.floats(0, 1), st.floats(0, 1))
def test_more_sparsity_never_lowers_a_threshold(table, first, second):
    less, more = (within(table, share) for share in sorted((first, second)))
    pairs = zip(
        table.resolve(QualityRequest(sparsity=less)).thresholds,
        table.resolve(QualityRequest(sparsity=more)).thresholds,
        strict=True,
    )
    assert all(low <= high for low, high in pairs)


@given(tables(), st.floats(0, 1))
def test_at_or_below_exacts_own_ratio_it_is_exact(table, share):
    setting = table.resolve(QualityRequest(sparsity=share * table.exact.skip_ratio))
    assert setting == table.resolve(QualityRequest(operating_point="exact")) == table.resolve(QualityRequest())
    assert setting.name == "exact"
    assert not any(setting.thresholds)


@given(tables(highest=0.99), st.floats(1e-6, 1))
def test_beyond_the_last_point_it_is_refused_with_the_range(table, share):
    low, high = table.sparsity_range
    sparsity = high + share * (1 - high)
    with pytest.raises(QualityError, match=f"offers {low:.3f} to {high:.3f}"):
        table.resolve(QualityRequest(sparsity=sparsity))


@given(tables())
def test_a_points_own_name_and_ratio_give_the_point(table):
    for one in table.points:
        by_name = table.resolve(QualityRequest(operating_point=one.name))
        assert by_name == table.resolve(QualityRequest(sparsity=one.skip_ratio))
        assert by_name == Setting(
            one.name, one.thresholds, one.norm_set, one.skip_ratio, one.gated_macs,
            one.accuracy, one.accuracy_interval, one.drop,
        )  # fmt: skip


def test_halfway_between_two_points_thresholds_are_halfway(make_table):
    setting = make_table(3).resolve(QualityRequest(sparsity=0.325))
    first, second = (make_table(3).resolve(QualityRequest(operating_point=name)) for name in ("p25", "p40"))
    assert setting.name is None
    assert setting.thresholds == pytest.approx(np.mean([first.thresholds, second.thresholds], axis=0))
    assert setting.expected_accuracy == second.expected_accuracy < first.expected_accuracy


@pytest.mark.parametrize(("sparsity", "norm_set"), [(0.1, 3), (0.26, 3), (0.34, 5), (0.5, 5)])
def test_the_normalisation_set_is_the_nearer_points(sparsity, norm_set):
    table = OperatingPointTable((point("exact", [0], 0.1, norm_set=3), point("p50", [1], 0.5, norm_set=5)), 100)
    assert table.resolve(QualityRequest(sparsity=sparsity)).norm_set == norm_set


@pytest.mark.parametrize("name", ["p99", "EXACT", "", "exact "])
def test_an_unknown_point_is_refused_with_the_names(make_table, name):
    with pytest.raises(QualityError, match="use one of exact, p25, p40, p60"):
        make_table(2).resolve(QualityRequest(operating_point=name))


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
    assert table.resolve(QualityRequest(max_accuracy_drop=floor)).name == name


@given(tables(), st.floats(0, 100))
def test_every_point_up_to_the_one_that_a_floor_allows_keeps_it(table, floor):
    chosen = table.resolve(QualityRequest(max_accuracy_drop=floor))
    index = [one.name for one in table.points].index(chosen.name)
    assert all(one.drop_bound <= floor for one in table.points[1 : index + 1])
    assert index + 1 == len(table.points) or table.points[index + 1].drop_bound > floor


@given(tables(smallest=2))
def test_the_smallest_certified_drop_is_where_a_floor_first_allows_more_than_exact(table):
    smallest = table.smallest_certified_drop
    assert table.resolve(QualityRequest(max_accuracy_drop=smallest)).name != "exact"
    if smallest > 0:
        assert table.resolve(QualityRequest(max_accuracy_drop=np.nextafter(smallest, 0))).name == "exact"


def test_exact_alone_certifies_nothing():
    assert with_bounds(0.0).smallest_certified_drop is None


@given(tables(), st.floats(0, 1), st.floats(0, 100))
def test_a_target_within_its_floor_is_served_as_without_it_and_past_it_refused(table, share, floor):
    sparsity = within(table, share)
    allowed = table.resolve(QualityRequest(max_accuracy_drop=floor)).sparsity
    quality = QualityRequest(sparsity=sparsity, max_accuracy_drop=floor)
    if sparsity <= allowed:
        assert table.resolve(quality) == table.resolve(QualityRequest(sparsity=sparsity))
    else:
        with pytest.raises(QualityError, match="past its own floor"):
            table.resolve(quality)


@pytest.mark.parametrize(("name", "served"), [("exact", True), ("p1", True), ("p2", False), ("p3", False)])
def test_a_named_point_is_held_to_its_floor_too(name, served):
    table, quality = with_bounds(0.0, 0.3, 0.5, 0.2), QualityRequest(operating_point=name, max_accuracy_drop=0.4)
    if served:
        assert table.resolve(quality).name == name
    else:
        with pytest.raises(QualityError, match=r"at most 0\.200 \(p1\)"):
            table.resolve(quality)


# wishes that are none


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
    "wish", [{"sparsity": 0.0}, {"sparsity": 1.0}, {"max_accuracy_drop": 0.0}, {"max_accuracy_drop": 100.0}]
)
def test_the_ends_of_the_ranges_are_wishes(quality):
    assert QualityRequest(**quality) == QualityRequest(**quality)


# tables


@given(tables())
def test_a_table_survives_json(table):
    assert OperatingPointTable.from_json(json.loads(json.dumps(table.to_json()))) == table


EXACT, P1 = point("exact", [0, 0], 0.1), point("p1", [0.5, 0.5], 0.3)


@pytest.mark.parametrize(
    ("points", "match"),
    [
        ((), "starts with exact"),
        ((P1,), "starts with exact"),
        ((P1, EXACT), "starts with exact"),
        ((replace(EXACT, thresholds=(0.0, 0.1)), P1), "starts with exact"),
        ((EXACT, replace(P1, name="exact")), "different names"),
        ((EXACT, P1, replace(P1, skip_ratio=0.5)), "different names"),
        ((EXACT, replace(P1, skip_ratio=0.1)), "does not skip more"),
        ((EXACT, replace(P1, skip_ratio=0.05)), "does not skip more"),
        ((EXACT, replace(P1, skip_ratio=np.nan)), "does not skip more"),
        ((EXACT, P1, point("p2", [0.6, 0.4], 0.5)), "threshold falls from operating point p1 to p2"),
        ((EXACT, point("p1", [0.5, -0.1], 0.3)), "threshold falls"),
        ((EXACT, point("p1", [0.5], 0.3)), "one finite threshold per layer"),
        ((EXACT, point("p1", [0.5, np.nan], 0.3)), "one finite threshold per layer"),
        ((EXACT, point("p1", [0.5, np.inf], 0.3)), "one finite threshold per layer"),
    ],
)
def test_a_table_out_of_order_is_refused(points, match):
    with pytest.raises(BundleError, match=match):
        OperatingPointTable(points, 5000)


@pytest.mark.parametrize(
    "change",
    [
        {"name": 3}, {"name": None}, {"name": ["p1"]},
        {"thresholds": None}, {"thresholds": 0.5}, {"thresholds": "01"}, {"thresholds": ["0", "1"]},
        {"thresholds": [0.5, None]}, {"thresholds": [0.5, np.nan]}, {"thresholds": [0.5, True]}, {"thresholds": {}},
        {"norm_set": 0.5}, {"norm_set": -1}, {"norm_set": None}, {"norm_set": "0"},
        {"skip_ratio": None}, {"skip_ratio": "0.3"}, {"skip_ratio": 1.5}, {"skip_ratio": np.nan},
        {"accuracy": 1.1}, {"accuracy": -0.1}, {"accuracy": np.nan}, {"accuracy": True},
        {"gated_macs": np.inf}, {"gated_macs": 10**400},
        {"drop": np.nan}, {"drop_bound": np.nan}, {"drop_bound": -np.inf},
        {"accuracy_interval": None}, {"accuracy_interval": [0, 1]}, {"accuracy_interval": {"low": 0.9}},
        {"accuracy_interval": {"low": 0.9, "high": 0.8}}, {"accuracy_interval": {"low": "0", "high": "1"}},
        {"drop_interval": {"low": np.nan, "high": 1}}, {"drop_interval": {"low": 0, "high": np.inf}},
        {"surprise": 1},
    ],
)  # fmt: skip
def test_a_point_with_a_wrong_value_is_refused(change):
    value = json.loads(json.dumps(OperatingPointTable((EXACT, P1), 100).to_json()))
    value["points"][1] |= change
    with pytest.raises(BundleError):
        OperatingPointTable.from_json(value)


@pytest.mark.parametrize("field", sorted(set(EXACT.__dataclass_fields__) - {"exit_confidence"}))
def test_a_point_without_one_of_its_fields_is_refused(field):
    value = OperatingPointTable((EXACT, P1), 100).to_json()
    del value["points"][1][field]
    with pytest.raises(BundleError, match=field):
        OperatingPointTable.from_json(value)


@pytest.mark.parametrize(
    "value",
    [None, [], "points", {}, {"points": []}, {"points": [], "images": 5}, {"points": None, "images": 5},
     {"points": [[]], "images": 5}, {"points": ["exact"], "images": 5}, {"points": [None], "images": 5}],
)  # fmt: skip
def test_json_that_is_no_table_is_refused(value):
    with pytest.raises(BundleError):
        OperatingPointTable.from_json(value)


@pytest.mark.parametrize("images", [None, "5000", 5000.5, np.nan, np.inf, [5000], 0, -1])
def test_a_table_without_a_number_of_images_is_refused(images):
    value = json.loads(json.dumps(OperatingPointTable((EXACT, P1), 100).to_json()))
    with pytest.raises(BundleError, match="images"):
        OperatingPointTable.from_json(value | {"images": images})


# controls


def test_controls_have_a_row_per_setting(make_table):
    table = make_table(3)
    settings = [table.resolve(QualityRequest(sparsity=value)) for value in (0.1, 0.3, 0.6)]
    settings[1] = replace(settings[1], norm_set=1)
    options = controls_for(settings, want_masks=True)
    assert options.thresholds.dtype == np.float32
    np.testing.assert_allclose(options.thresholds, [setting.thresholds for setting in settings], rtol=1e-6)
    assert options.norm_set.tolist() == [0, 1, 0]
    assert options.exit_confidence.shape == (3, 0)
    assert options.want_masks
    assert not controls_for(settings).want_masks


# early exits


def exiting(name, confidence, ratio, drop_bound=0.0, thresholds=(0.0, 0.0)):
    return replace(
        point(name, thresholds, ratio, drop_bound), exit_confidence=(confidence,) * 3, gated_macs=1e6 * (1 - ratio)
    )


FRONT = (exiting("exact", 1.0, 0.1), exiting("p40", 0.8, 0.4, 1.0, (0.1, 0.2)))
BY_HAND = (exiting("exit 0.9", 0.9, 0.2, 0.5), exiting("exit 0.5", 0.5, 0.6, 4.0))
LEAVING = OperatingPointTable(FRONT, 5000, BY_HAND)


def test_a_confidence_by_hand_is_every_exits_with_exact_gates():
    setting = LEAVING.resolve(QualityRequest(exit_confidence=0.7))
    assert setting.exit_confidence == pytest.approx((0.7,) * 3)
    assert setting.thresholds == (0.0, 0.0)
    assert setting.name is None
    assert setting.sparsity == pytest.approx(0.4)
    assert setting.gated_macs == pytest.approx(0.6e6)
    assert setting.expected_accuracy_drop == BY_HAND[1].drop


def test_a_confidence_of_one_is_exact():
    assert LEAVING.resolve(QualityRequest(exit_confidence=1)) == LEAVING.resolve(QualityRequest())


@given(st.floats(0.5, 1), st.floats(0.5, 1))
def test_less_confidence_is_never_expected_to_cost_more(first, second):
    low, high = sorted((first, second))
    settings = [LEAVING.resolve(QualityRequest(exit_confidence=value)) for value in (low, high)]
    assert settings[0].gated_macs <= settings[1].gated_macs
    assert settings[0].exit_confidence <= settings[1].exit_confidence


def test_between_points_exits_change_with_thresholds():
    setting = LEAVING.resolve(QualityRequest(sparsity=0.25))
    assert setting.exit_confidence == pytest.approx((0.9,) * 3)
    assert setting.thresholds == pytest.approx((0.05, 0.1))
    assert controls_for([setting, LEAVING.resolve(QualityRequest())]).exit_confidence.tolist() == [
        pytest.approx([0.9] * 3), [1, 1, 1],
    ]  # fmt: skip


@pytest.mark.parametrize("value", [0.49, 1.01, -1, float("nan"), float("inf")])
def test_a_confidence_out_of_range_is_refused(value):
    with pytest.raises(QualityError, match=r"exit_confidence must be a number from 0\.5 to 1"):
        QualityRequest(exit_confidence=value)


def test_a_confidence_is_a_target():
    with pytest.raises(QualityError, match="two targets"):
        QualityRequest(exit_confidence=0.9, sparsity=0.3)


def test_a_model_without_exits_has_no_confidence_to_set():
    with pytest.raises(QualityError, match="no early exits"):
        OperatingPointTable((point("exact", (), 0.1),), 5000).resolve(QualityRequest(exit_confidence=0.9))


def test_a_confidence_past_its_floor_is_refused_and_one_within_may_be_lowered():
    with pytest.raises(QualityError, match="past its own floor"):
        LEAVING.offer(QualityRequest(exit_confidence=0.6, max_accuracy_drop=1.0))
    offer = LEAVING.offer(QualityRequest(exit_confidence=0.95, max_accuracy_drop=1.0))
    assert [setting.name for setting in offer.settings] == [None, "p40"]
    assert offer.gives_way


def test_a_confidence_within_its_floor_is_served_though_no_point_is():
    """The front's first point may lose more than the floor allows; what was measured of the confidence may not."""
    offer = LEAVING.offer(QualityRequest(exit_confidence=0.9, max_accuracy_drop=0.7))
    assert [setting.exit_confidence for setting in offer.settings] == [pytest.approx((0.9,) * 3)]


@pytest.mark.parametrize(
    ("points", "by_hand", "message"),
    [
        (FRONT, (), "exit points where the model has"),
        ((point("exact", (0.0, 0.0), 0.1),), BY_HAND, "one confidence per early exit"),
        ((replace(FRONT[0], exit_confidence=(0.9,) * 3), FRONT[1]), BY_HAND, "nobody|no image leaves early at exact"),
        ((FRONT[0], replace(FRONT[1], exit_confidence=(0.9,) * 2)), BY_HAND, "p40 needs one confidence"),
        ((*FRONT, exiting("p50", 0.9, 0.5, 1.0, (0.1, 0.2))), BY_HAND, "an exit's confidence rises"),
        (FRONT, BY_HAND[:1], "the last exit point has the confidence 0.5"),
        (FRONT, (BY_HAND[0], replace(BY_HAND[1], thresholds=(0.0, 0.1))), "exact gates"),
        (FRONT, (BY_HAND[0], replace(BY_HAND[1], exit_confidence=(0.5, 0.5, 0.6))), "one confidence for all"),
        (FRONT, (BY_HAND[0], replace(BY_HAND[1], skip_ratio=0.15)), "skips less than exit 0.9"),
        (FRONT, (BY_HAND[0], BY_HAND[0], BY_HAND[1]), "needs a lower exit confidence"),
    ],
)
def test_tables_whose_exits_make_no_sense_are_refused(points, by_hand, message):
    with pytest.raises(BundleError, match=message):
        OperatingPointTable(points, 5000, by_hand)


def test_exits_come_back_from_json():
    assert OperatingPointTable.from_json(json.loads(json.dumps(LEAVING.to_json()))) == LEAVING


@pytest.mark.parametrize("confidence", [1.5, -0.1, float("nan"), "0.5", None])
def test_confidences_that_are_none_are_refused(confidence):
    entry = json.loads(json.dumps(LEAVING.to_json()))
    entry["points"][1]["exit_confidence"][0] = confidence
    with pytest.raises(BundleError):
        OperatingPointTable.from_json(entry)
