"""Early exits over a real socket: wished for, told in answers and metadata, counted, and mixed in one batch."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import lccl
from lccl.bundle.format import save
from lccl.plan.run import RunOptions
from lccl.request import QualityRequest, resolve
from service.inference.decode import decode
from tests.conftest import early_bundle
from tests.service.engines import Around

PNG = {"Content-Type": "image/png"}
MAP = "/v1/models/early/skip-map"
FALLING = (1.0, 0.95, 0.8, 0.7, 0.65, 0.5)


def post(client, *contents, path="/v1/classify", **query):
    return client.post(path, files=[("file", content) for content in contents], params=query)


def predictions(client, contents, **query):
    answer = post(client, *contents, **query)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def counted(client):
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        sample.labels["exit"]: sample.value
        for family in families for sample in family.samples if sample.name == "lccl_exits_total"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("query", "code", "says"),
    [
        ("exit_confidence=0.49", "bad_wish", "from 0.5 to 1, not 0.49"),
        ("exit_confidence=1.01", "bad_wish", "from 0.5 to 1, not 1.01"),
        ("exit_confidence=nan", "invalid_field", "exit_confidence"),
        ("exit_confidence=inf", "invalid_field", "exit_confidence"),
        ("exit_confidence=sure", "invalid_field", "exit_confidence"),
        ("exit_confidence=0.8&exit_confidence=0.9", "invalid_field", "given twice"),
        ("exit_confidence=0.8&sparsity=0.3", "bad_wish", "two targets"),
        ("exit_confidence=0.5&max_accuracy_drop=3", "bad_wish", "past its own floor"),
    ],
)
def test_a_confidence_that_cannot_be_is_422(early_client, draw_image, query, code, says):
    answer = early_client.post(f"/v1/classify?{query}", content=draw_image(), headers=PNG)
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == code
    assert says in answer.json()["detail"]


def test_a_model_without_exits_refuses_a_confidence_and_says_so_in_its_answers(client, draw_image):
    refused = client.post("/v1/classify?exit_confidence=0.8", content=draw_image(), headers=PNG)
    assert (refused.status_code, refused.json()["code"]) == (422, "bad_wish")
    assert "no early exits" in refused.json()["detail"]
    answer = client.post("/v1/classify", content=draw_image(), headers=PNG).json()
    assert answer["predictions"][0]["exit"] is None
    assert answer["operating_point"]["exit_confidence"] == []
    assert "lccl_exits_total{" not in client.get("/metrics").text


def test_the_confidence_is_the_first_classs_probability(client, early_client, smooth_images):
    for server in (client, early_client):
        (found,) = predictions(server, smooth_images[:1])
        assert found["confidence"] == found["classes"][0]["probability"]


def test_the_lower_the_confidence_the_fewer_macs(early_client, smooth_images):
    runs = [predictions(early_client, smooth_images, exit_confidence=sure) for sure in FALLING]
    for surer, less_sure in pairwise(runs):
        for one, other in zip(surer, less_sure, strict=True):
            assert other["macs"]["gated"] <= one["macs"]["gated"]
            assert other["macs"]["executed"] <= one["macs"]["executed"]
            assert other["skip_ratio"] >= one["skip_ratio"]
    assert {found["exit"] for run in runs for found in run} == {None, 0, 1}
    assert {found["exit"] for found in runs[0]} == {None}
    assert {found["exit"] for found in runs[-1]} == {0}


def test_who_leaves_is_surer_than_was_asked_for(early_client, smooth_images):
    for sure in FALLING[1:]:
        found = predictions(early_client, smooth_images, exit_confidence=sure)
        assert all(one["confidence"] > sure for one in found if one["exit"] is not None)


def test_the_answer_is_the_librarys(early_client, early_folder, smooth_images):
    bundle = lccl.load(early_folder / "early")
    engine = lccl.compile(bundle, "cpu", engine="reference")
    settings = [resolve(bundle.table, QualityRequest(exit_confidence=0.68)).wanted.setting] * len(smooth_images)
    pixels = np.stack([decode(one, bundle.preprocessing, 10**6) for one in smooth_images])
    output = engine.run(pixels, RunOptions.of(settings))
    assert len(set(output.exit_index.tolist())) == 3
    answer = post(early_client, *smooth_images, exit_confidence=0.68).json()
    assert answer["operating_point"]["exit_confidence"] == pytest.approx([0.68, 0.68])
    assert answer["operating_point"]["name"] is None
    found = answer["predictions"]
    assert [2 if one["exit"] is None else one["exit"] for one in found] == output.exit_index.tolist()
    assert [one["classes"][0]["index"] for one in found] == output.logits.argmax(1).tolist()
    assert [one["macs"]["gated"] for one in found] == engine.shape.gated(output.kept, output.exit_index).tolist()
    assert [one["macs"]["executed"] for one in found] == output.executed_macs.tolist()
    assert [one["macs"]["dense"] for one in found] == [40_551_040] * len(found)


def test_the_wish_is_taken_as_query_form_json_and_header(early_client, smooth_images):
    content = smooth_images[1]
    text = base64.b64encode(content).decode()
    answers = [
        early_client.post("/v1/classify?exit_confidence=0.7", content=content, headers=PNG),
        early_client.post("/v1/classify", content=content, headers=PNG | {"X-LCCL-Exit-Confidence": "0.7"}),
        early_client.post("/v1/classify", files={"file": content}, data={"exit_confidence": "0.7"}),
        early_client.post("/v1/classify", json={"image": text, "exit_confidence": 0.7}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 4
    for answer in answers:
        assert answer.json()["operating_point"] == answers[0].json()["operating_point"]
        assert answer.json()["operating_point"]["exit_confidence"] == pytest.approx([0.7, 0.7])
        assert answer.json()["predictions"] == answers[0].json()["predictions"]


def test_at_confidence_1_it_is_exact(early_client, smooth_images):
    never = post(early_client, smooth_images[0], exit_confidence=1).json()
    assert never["operating_point"]["name"] == "exact"
    assert never["predictions"] == post(early_client, smooth_images[0]).json()["predictions"]


def test_operating_points_take_their_exits(early_client, smooth_images):
    answer = post(early_client, *smooth_images, operating_point="p60").json()
    assert answer["operating_point"]["exit_confidence"] == [0.7, 0.7]
    assert {one["exit"] for one in answer["predictions"]} - {None}


def test_clients_of_one_batch_get_what_they_would_get_alone(serve, early_folder, smooth_images):
    asked = [(content, sure) for content in smooth_images[:4] for sure in (1.0, 0.8, 0.68, 0.5)]
    with (
        serve(models=early_folder, engine="reference", self_test_interval_s=600) as client,
        ThreadPoolExecutor(len(asked)) as pool,
    ):
        model = client.app.state.registry.find("early")

        def ask(one):
            content, sure = one
            return predictions(client, [content], exit_confidence=sure)[0]

        alone = [ask(one) for one in asked]
        model.engine = Watched(model.engine)
        together = list(pool.map(ask, asked))
    assert max(len(np.unique(options.exit_confidence)) for options in model.engine.seen) > 1
    assert [one["exit"] for one in together] == [one["exit"] for one in alone]
    for one, other in zip(alone, together, strict=True):
        assert other["classes"][0]["index"] == one["classes"][0]["index"]
        assert other["confidence"] == pytest.approx(one["confidence"], rel=1e-3)
        assert other["macs"]["gated"] == pytest.approx(one["macs"]["gated"], rel=2e-3)


class Watched(Around):
    """Remembers the controls of its runs."""

    def __init__(self, engine):
        super().__init__(engine)
        self.seen = []

    def run(self, images, options, **how):
        self.seen.append(options)
        return self._engine.run(images, options, **how)


def test_deadlines_and_floors_choose_points_with_their_exits(early_client, smooth_images):
    content = smooth_images[0]
    in_time = post(early_client, content, deadline_ms=20_000).json()
    assert in_time["operating_point"]["name"] == "exact"
    assert in_time["predictions"][0]["exit"] is None
    within = post(early_client, content, max_accuracy_drop=9).json()["operating_point"]
    assert (within["name"], within["exit_confidence"]) == ("p40", [0.8, 0.8])
    allowed = post(early_client, content, exit_confidence=0.95, max_accuracy_drop=9).json()["operating_point"]
    assert allowed["exit_confidence"] == pytest.approx([0.95, 0.95])
    late = post(early_client, content, deadline_ms=0.01)
    assert (late.status_code, late.json()["code"]) == (504, "deadline")


def test_brown_out_lowers_exits_too_and_not_past_the_floor(serve, early_folder, smooth_images):
    asked = {"operating_point": "exact", "max_accuracy_drop": 9}
    with serve(models=early_folder, engine="reference", queue_target_ms=0.001, self_test_interval_s=600) as client:
        for _ in range(12):
            answer = post(client, smooth_images[1], **asked).json()["operating_point"]
    assert answer["downgraded"]
    assert (answer["name"], answer["exit_confidence"]) == ("p40", [0.8, 0.8])


def test_a_skip_map_shows_nothing_computed_behind_the_exit(early_client, smooth_images):
    answer = early_client.post(f"{MAP}?exit_confidence=0.5", content=smooth_images[0], headers=PNG).json()
    assert answer["prediction"]["exit"] == 0
    before, behind = answer["layers"][:6], answer["layers"][6:]  # the first exit stands behind the third block
    assert behind[0]["name"] == "blocks.3.conv1"
    assert all(layer["kept"] for layer in before)
    assert all(layer["kept"] == 0 and layer["skip_ratio"] == 1 for layer in behind)
    assert not any("1" in row for layer in behind for rows in layer["mask"] for row in rows)
    whole = early_client.post(MAP, content=smooth_images[0], headers=PNG).json()
    assert whole["prediction"]["exit"] is None
    assert all(layer["kept"] for layer in whole["layers"])


def test_metadata_names_the_exits_and_what_was_measured(early_client, client):
    model = early_client.get("/v1/models/early").json()
    assert [(one["number"], one["after_block"]) for one in model["exits"]] == [(0, 2), (1, 5)]
    assert model["exits"][1]["images"] == pytest.approx({"exact": 0, "p25": 0.05, "p40": 0.1, "p60": 0.15})
    assert model["exit_confidence_range"] == [0.5, 1.0]
    assert [one["exit_confidence"] for one in model["exit_points"]] == [0.9, 0.7, 0.5]
    (first, *_) = model["exit_points"]
    assert (first["skip_ratio"], first["accuracy_drop"]) == (0.2, 2.0)
    assert first["accuracy"] == pytest.approx(0.88)
    assert first["gated_macs"] == pytest.approx(3.2e7)
    assert [one["exit_confidence"] for one in model["operating_points"]] == [[1.0] * 2, [0.9] * 2, [0.8] * 2, [0.7] * 2]
    small = client.get("/v1/models/small").json()
    assert (small["exits"], small["exit_points"], small["exit_confidence_range"]) == ([], [], None)
    assert {tuple(one["exit_confidence"]) for one in small["operating_points"]} == {()}


@pytest.mark.parametrize(
    "calibration",
    [{}, {"images_by_exit": 3}, {"images_by_exit": {"exact": [0.1, 0.9]}}, {"images_by_exit": "all"}],
    ids=["none", "a number", "too few", "a text"],
)
def test_shares_that_calibration_did_not_record_are_left_out(serve, tmp_path, calibration):
    save(replace(early_bundle(), calibration=calibration), tmp_path / "early")
    with serve(models=tmp_path, engine="reference") as client:
        assert [one["images"] for one in client.get("/v1/models/early").json()["exits"]] == [{}, {}]


def test_images_are_counted_by_the_exit_that_answered(early_client, smooth_images):
    before = counted(early_client)
    found = predictions(early_client, smooth_images, exit_confidence=0.68)
    after = counted(early_client)
    assert set(after) == {"0", "1", "end"}
    for number, name in ((0, "0"), (1, "1"), (None, "end")):
        assert after[name] - before.get(name, 0) == sum(one["exit"] == number for one in found) > 0


def test_the_open_inference_protocol_takes_and_tells_it(early_client, client, smooth_images):
    data = [base64.b64encode(one).decode() for one in smooth_images]
    inputs = [{"name": "image", "datatype": "BYTES", "shape": [len(data)], "data": data}]

    def infer(headers=None, **parameters):
        body = {"inputs": inputs, "parameters": parameters}
        return early_client.post("/v2/models/early/infer", json=body, headers=headers)

    v1 = predictions(early_client, smooth_images, exit_confidence=0.68)
    for answer in (infer(exit_confidence=0.68), infer({"X-LCCL-Exit-Confidence": "0.68"})):
        (exits,) = (one for one in answer.json()["outputs"] if one["name"] == "exit")
        assert (exits["datatype"], exits["shape"]) == ("INT64", [12])
        assert exits["data"] == [-1 if one["exit"] is None else one["exit"] for one in v1]
    assert infer(exit_confidence=0.3).status_code == 422
    outputs = [one["name"] for one in early_client.get("/v2/models/early").json()["outputs"]]
    assert outputs[-1] == "exit"
    told = early_client.get("/v2/models/early/config").json()["parameters"]
    assert told["exits"] == {"string_value": "2"}
    assert (told["exit_confidence_min"], told["exit_confidence_max"]) == (
        {"string_value": "0.5"},
        {"string_value": "1"},
    )
    assert "exits" not in client.get("/v2/models/small/config").json()["parameters"]
