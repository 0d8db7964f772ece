"""The fault trials' own judgement: a wrong, strange or lost answer is seen."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from benchmarks.faults.cases import MODEL, bad_cases, classify, damaged, images
from benchmarks.faults.load import Rest, at_rest, load
from benchmarks.faults.outcome import Counts, Outcome
from tests.service.conftest import serve
from tests.service.engines import Wrong


def v1(point, label, **other):
    return {
        "model": MODEL, "request_id": "1", "timing_ms": {}, "predictions": [{"classes": [label]}],
        "operating_point": {"name": point, "sparsity": 0.3, "downgraded": False}, **other,
    }  # fmt: skip


@pytest.fixture(name="rest")
def _rest():
    known = v1("exact", "cat"), v1("p40", "dog")
    kept = [{name: value for name, value in one.items() if name not in {"request_id", "timing_ms"}} for one in known]
    for one in kept:
        one["operating_point"] = {"name": one["operating_point"]["name"], "sparsity": 0.3}
    return Rest(answers={"free 0": {"exact": kept[0], "p40": kept[1]}})


def test_an_answer_is_right_at_the_point_it_names(rest):
    assert rest.right("free 0", json.dumps(v1("exact", "cat", request_id="2")).encode())
    assert rest.right("free 0", json.dumps(v1("p40", "dog", timing_ms={"total": 3})).encode())
    assert not rest.differences


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(v1("exact", "dog")),
        json.dumps(v1("p40", "cat")),
        json.dumps(v1("p45", "cat")),
        json.dumps(v1("exact", "cat", model="other")),
        json.dumps(v1("exact", "cat"))[:-1],
        "null",
        "",
    ],
)
def test_any_other_answer_is_wrong(rest, content):
    assert not rest.right("free 0", content.encode())
    assert not rest.right("unknown 0", json.dumps(v1("exact", "cat")).encode())
    assert rest.differences


def test_what_is_neither_answered_nor_failed_is_lost_and_a_fault():
    counts = Counts(10, Counter({"200": 6, "429": 1}), failed=1, abandoned=1)
    assert counts.lost == 1
    assert not Outcome("trial", counts).passed
    counts.answered["200"] += 1
    assert Outcome("trial", counts).passed
    counts.wrong = 1
    assert not Outcome("trial", counts).passed


class Served:
    """What a load needs to know of a server."""

    def __init__(self, client):
        self.base = str(client.base_url).rstrip("/")


def test_a_server_that_begins_to_answer_wrongly_is_found_out(models_folder):
    with serve(models=models_folder, self_test_interval_s=600) as client:
        rest = at_rest(
            Served(client).base, [classify("exact", images(4, 32)), classify("none", (b"no image",), status=415)]
        )
        good, model = load(Served(client), rest, 40, 1), client.app.state.registry.find(None)
        assert good.counts.wrong == good.counts.lost == good.counts.failed == 0
        assert not good.strange
        assert set(good.counts.answered) == {"200", "415"}
        model.engine = Wrong(model.engine)
        bad = load(Served(client), rest, 40, 1)
        assert bad.counts.wrong == bad.counts.answered["200"] > 0


def test_bodies_are_always_the_same_and_damaged_ones_differ_from_whole_ones():
    whole = images(3, 32)
    assert damaged(whole, 20) == damaged(whole, 20)
    assert len(set(damaged(whole, 20)) - set(whole)) > 15
    assert [case.bodies for case in bad_cases(2)] == [case.bodies for case in bad_cases(2)]
