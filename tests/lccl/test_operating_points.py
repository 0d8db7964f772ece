"""Tables are checked when they are made and survive JSON; all else is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from lccl.errors import BundleError
from lccl.operating_points import OperatingPointTable
from tests.lccl.points import BY_HAND, FRONT, LEAVING, exiting, point, tables, with_setting


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
        ((with_setting(EXACT, thresholds=(0.0, 0.1)), P1), "starts with exact"),
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
        {"norm_set": 1}, {"norm_set": 0.5}, {"norm_set": -1}, {"norm_set": None}, {"norm_set": "0"},
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


@pytest.mark.parametrize("field", sorted(set(EXACT.to_json()) - {"exit_confidence"}))
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


def test_a_normalisation_set_of_a_bundle_before_version_0_2_is_read():
    value = json.loads(json.dumps(OperatingPointTable((EXACT, P1), 100).to_json()))
    value["points"][1]["norm_set"] = 0
    assert OperatingPointTable.from_json(value).points == (EXACT, P1)


# early exits


@pytest.mark.parametrize(
    ("points", "by_hand", "message"),
    [
        (FRONT, (), "exit points where the model has"),
        ((point("exact", (0.0, 0.0), 0.1),), BY_HAND, "one confidence per early exit"),
        (
            (with_setting(FRONT[0], exit_confidence=(0.9,) * 3), FRONT[1]),
            BY_HAND,
            "no image leaves early at exact",
        ),
        ((FRONT[0], with_setting(FRONT[1], exit_confidence=(0.9,) * 2)), BY_HAND, "p40 needs one confidence"),
        ((*FRONT, exiting("p50", 0.9, 0.5, 1.0, (0.1, 0.2))), BY_HAND, "an exit's confidence rises"),
        (FRONT, BY_HAND[:1], "the last exit point has the confidence 0.5"),
        (FRONT, (BY_HAND[0], with_setting(BY_HAND[1], thresholds=(0.0, 0.1))), "exact gates"),
        (FRONT, (BY_HAND[0], with_setting(BY_HAND[1], exit_confidence=(0.5, 0.5, 0.6))), "one confidence for all"),
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
