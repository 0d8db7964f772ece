"""The dashboards as Grafana will read them: what the builder wrote, of Grafana's own types, about metrics there are."""

from __future__ import annotations

import enum
import json
import re
from itertools import combinations
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client import CollectorRegistry

from deploy.grafana.__main__ import BUILDERS, FOLDER, text_of
from service.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[1]
TEXTS = {path.stem: path.read_text() for path in FOLDER.glob("*.json")}
BOARDS = {name: json.loads(text) for name, text in TEXTS.items()}
SAMPLES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
every_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS.keys())


def charts(board):
    return [panel for panel in board["panels"] if panel["type"] != "row"]


@pytest.fixture(scope="module")
def source():
    """The data source that Grafana is provisioned with."""
    (found,) = yaml.safe_load((FOLDER.parent / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    return {"type": found["type"], "uid": found["uid"]}


@pytest.fixture(scope="module")
def metrics():
    """The samples that each of the service's metrics exports, former names apart."""
    registry = CollectorRegistry()
    Metrics(registry)
    own = [family for family in registry.collect() if family.name.startswith("lccl_")]
    families = [family for family in own if not family.documentation.startswith("Deprecated")]
    return {family.name: {family.name + suffix for suffix in SAMPLES[family.type]} for family in families}


@pytest.fixture(scope="module")
def asked():
    """The service's samples that the dashboards ask Prometheus for."""
    targets = (target for board in BOARDS.values() for panel in charts(board) for target in panel["targets"])
    return set(re.findall(r"\blccl_[a-z_]+", "\n".join(target["expr"] for target in targets)))


def plain(value: object) -> Any:
    return json.loads(json.dumps(value, cls=JSONEncoder))


def kept(value: Any, typed: Any) -> bool:
    """Whether nothing of a JSON value was lost on its way through types, which may have added defaults."""
    if isinstance(value, dict) and isinstance(typed, dict):
        return all(key in typed and kept(one, typed[key]) for key, one in value.items())
    if isinstance(value, list) and isinstance(typed, list):
        return len(value) == len(typed) and all(map(kept, value, typed))
    return bool(value == typed)


def misfits(value: Any, declared: Any, where: str) -> list[str]:
    """Where a value is not what Grafana's schema, as the library's classes declare it, says it is."""
    kind, inner = get_origin(declared), get_args(declared)
    if kind in {Union, UnionType}:
        return min((misfits(value, one, where) for one in inner), key=len)
    if kind is list and isinstance(value, list):
        return [bad for index, one in enumerate(value) for bad in misfits(one, inner[0], f"{where}[{index}]")]
    if kind is dict and isinstance(value, dict):
        return [bad for key, one in value.items() for bad in misfits(one, inner[1], f"{where}.{key}")]
    if isinstance(value, dict) and hasattr(declared, "from_json"):
        typed = declared.from_json(value)
        lost = [] if kept(value, plain(typed)) else [f"{where}: {declared.__name__} knows less than {value}"]
        return lost + misfits(typed, declared, where)
    if not _fits(value, declared):
        return [f"{where}: {value!r} is no {declared}"]
    hints = get_type_hints(type(value)) if hasattr(value, "to_json") else {}
    return [bad for name, one in hints.items() for bad in misfits(getattr(value, name), one, f"{where}.{name}")]


def _fits(value: Any, declared: Any) -> bool:
    """Whether a value that holds no others is of a type: a whole number is a number too, but true and false are not."""
    if declared in {Any, object}:
        return True
    if get_origin(declared) is Literal:
        return value in get_args(declared)
    if isinstance(declared, type) and issubclass(declared, enum.Enum):
        return value in [one.value for one in declared]
    if isinstance(value, bool):
        return declared is bool
    return isinstance(value, (int, float) if declared is float else get_origin(declared) or declared)


def schema_errors(board: Any) -> list[str]:
    """Why a dashboard is not of Grafana's published types: keys that are unknown, values of other types."""
    register_default_plugins()
    typed = Dashboard.from_json(board)
    unknown = [] if kept(board, plain(typed)) else ["the dashboard has keys that its type does not know"]
    return unknown + misfits(typed, Dashboard, "dashboard")


def test_every_dashboard_has_a_builder():
    assert TEXTS.keys() == BUILDERS.keys()


@pytest.mark.parametrize("name", BUILDERS)
def test_what_is_committed_is_what_the_builder_writes(name):
    assert TEXTS[name] == text_of(name), "run `python -m deploy.grafana`"


@every_board
def test_it_is_of_grafanas_published_types(board):
    assert schema_errors(board) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"displayMode": "list"', '"displayMode": "sideways"'),
        ('"unit": "reqps"', '"unit": 3'),
        ('"refId": "A"', '"refId": "A", "colour": "red"'),
        ('"fillOpacity": 8', '"fillOpacity": "8"'),
        ('"sort": "desc"', '"sort": null'),
        ('"editable": false', '"editable": 0'),
        ('"asDropdown": false', '"asDropdown": "no"'),
    ],
)
def test_what_is_not_of_these_types_would_be_found(old, new):
    assert old in TEXTS["overview"]
    assert schema_errors(json.loads(TEXTS["overview"].replace(old, new)))


def test_metrics_that_are_asked_for_exist(metrics, asked):
    assert asked <= set().union(*metrics.values())


def test_every_metric_is_shown(metrics, asked):
    assert [name for name, samples in metrics.items() if not samples & asked] == []


@every_board
def test_it_uses_the_provisioned_data_source(board, source):
    assert all(panel["datasource"] == source for panel in charts(board))
    assert all(variable["datasource"] == source for variable in board["templating"]["list"])


def test_dashboards_have_fixed_names_of_their_own():
    assert {name: board["uid"] for name, board in BOARDS.items()} == {name: f"lccl-{name}" for name in BOARDS}


@every_board
def test_variables_that_are_used_are_there(board):
    used = set(re.findall(r"\$([a-z]+)", "".join(t["expr"] for panel in charts(board) for t in panel["targets"])))
    assert used == {variable["name"] for variable in board["templating"]["list"]}


@every_board
def test_panels_have_their_own_ids(board):
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


@every_board
def test_panels_lie_side_by_side_on_the_grid(board):
    places = [panel["gridPos"] for panel in board["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y


@every_board
def test_panels_explain_themselves(board):
    assert all(panel["title"] and panel["description"].endswith(".") for panel in charts(board))
    timed = [panel for panel in charts(board) if panel["type"] == "timeseries"]
    assert all("unit" in panel["fieldConfig"]["defaults"] for panel in timed)


@every_board
def test_panels_have_no_more_queries_than_they_show(board):
    for panel in charts(board):
        references = [target["refId"] for target in panel["targets"]]
        assert references == [*"ABCDEFGH"][: len(references)]


def test_the_home_dashboard_is_there():
    grafana = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]
    assert Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).stem in BOARDS
