"""Classification over a real socket: encodings, wishes, mixed batches."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import lccl
from lccl.bundle.format import save
from lccl.networks import Architecture
from lccl.plan.run import RunOptions
from lccl.request import QualityRequest, resolve
from service.inference.decode import decode

PNG = {"Content-Type": "image/png"}


def post(client, content, headers=PNG, model=None, **query):
    path = f"/v1/models/{model}/classify" if model else "/v1/classify"
    return client.post(path, content=content, headers=headers, params=query)


def test_an_answer_names_classes_point_skip_ratio_and_macs(client, draw_image):
    answer = post(client, draw_image(), sparsity=0.3, top_k=3).json()
    assert answer["model"] == "small"
    point = answer["operating_point"]
    assert point["name"] is None
    assert point["sparsity"] == 0.3
    assert set(point) >= {"expected_accuracy", "accuracy_interval", "expected_accuracy_drop", "norm_set", "downgraded"}
    (prediction,) = answer["predictions"]
    assert len(prediction["classes"]) == 3
    probabilities = [found["probability"] for found in prediction["classes"]]
    assert probabilities == sorted(probabilities, reverse=True)
    macs = prediction["macs"]
    assert macs["dense"] == 40_551_040
    assert macs["gated"] < macs["dense"]
    assert macs["executed"] == macs["gated"] + 384  # ten classes fill up two vectors of 8, or one of 16
    assert 0 <= prediction["skip_ratio"] <= 1
    assert set(answer["timing_ms"]) == {"decode", "queue", "compute", "total"}


def test_the_answer_is_the_librarys(client, draw_image, models_folder):
    content = draw_image(seed=3)
    served = post(client, content, sparsity=0.33, top_k=10).json()["predictions"][0]
    bundle = lccl.load(models_folder / "small")
    engine = lccl.compile(bundle)
    setting = resolve(bundle.table, QualityRequest(sparsity=0.33)).wanted.setting
    output = engine.run(decode(content, bundle.preprocessing, 10**6)[None], RunOptions.of([setting]))
    logits = output.logits[0].astype(np.float64)
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    found = {entry["index"]: entry["probability"] for entry in served["classes"]}
    assert found == pytest.approx(dict(enumerate(expected)), rel=1e-4)
    assert served["skip_ratio"] == pytest.approx(engine.shape.skip_ratio(output.kept)[0], abs=1e-3)


@pytest.mark.parametrize("headers", [PNG, {"Content-Type": "application/octet-stream"}, {"Content-Type": ""}])
def test_a_raw_body_is_a_image(client, draw_image, headers):
    assert post(client, draw_image(), headers).status_code == 200


def test_the_three_encodings_agree(client, draw_image):
    content = draw_image(seed=5)
    raw = post(client, content, sparsity=0.25, top_k=2).json()
    form = client.post(
        "/v1/classify", files={"file": ("a.png", content)}, data={"sparsity": "0.25", "top_k": "2"}
    ).json()
    text = base64.b64encode(content).decode()
    json = client.post("/v1/classify", json={"image": text, "sparsity": 0.25, "top_k": 2}).json()
    assert raw["predictions"] == form["predictions"] == json["predictions"]
    assert raw["operating_point"] == form["operating_point"] == json["operating_point"]


def test_several_images_keep_their_order(client, draw_image):
    contents = [draw_image(seed=seed) for seed in range(4)]
    alone = [post(client, content).json()["predictions"][0] for content in contents]
    together = client.post("/v1/classify", files=[("file", content) for content in contents]).json()["predictions"]
    assert [one["classes"][0]["index"] for one in together] == [one["classes"][0]["index"] for one in alone]
    assert [one["skip_ratio"] for one in together] == pytest.approx([one["skip_ratio"] for one in alone], abs=1e-3)


def test_a_bad_image_among_good_ones_gets_its_error_and_the_rest_are_served(client, draw_image):
    files = [("file", draw_image(seed=1)), ("file", b"no image"), ("file", draw_image(seed=2))]
    answer = client.post("/v1/classify", files=files)
    assert answer.status_code == 200
    first, bad, last = answer.json()["predictions"]
    assert "classes" in first
    assert "classes" in last
    assert bad["error"]["status"] == 415
    assert "classes" not in bad


def test_only_bad_images_are_an_error(client):
    assert client.post("/v1/classify", files=[("file", b"no"), ("file", b"neither")]).status_code == 415


def test_without_a_wish_the_network_runs_exactly(client, draw_image):
    assert post(client, draw_image()).json()["operating_point"]["name"] == "exact"


def test_a_floor_alone_takes_the_sparsest_point_within_it(client, draw_image):
    answer = post(client, draw_image(), max_accuracy_drop=3).json()
    assert answer["operating_point"]["name"] == "p25"


def test_split_convolutions_are_served_by_the_reference_engine(serve, random_bundle, draw_image, tmp_path):
    """It alone runs them; metadata names it and the split."""
    save(random_bundle(Architecture("resnet20", split="1/2")), tmp_path / "split")
    with serve(models=tmp_path) as client:
        described = client.get("/v1/models/split").json()
        assert (described["engine"], described["architecture"]["split"]) == ("reference", "1/2")
        answer = post(client, draw_image(), sparsity=0.4).json()
    assert answer["predictions"][0]["macs"]["dense"] == 14_926_464


def test_more_sparsity_skips_more(client, draw_image):
    wanted = (0.1, 0.25, 0.4, 0.6)
    reached = [post(client, draw_image(), sparsity=value).json()["predictions"][0]["skip_ratio"] for value in wanted]
    assert reached == sorted(reached)
    assert reached[0] < reached[-1]


def test_a_plain_twin_offers_exact_alone(client, draw_image):
    answer = post(client, draw_image(), model="twin").json()
    assert answer["predictions"][0]["skip_ratio"] == 0
    assert post(client, draw_image(), model="twin", sparsity=0.9).status_code == 422


def test_a_batch_mixes_wishes_and_each_gets_what_it_would_get_alone(client, draw_image):
    asked = [(seed, sparsity) for seed in range(6) for sparsity in (0.1, 0.3, 0.6)]

    def ask(one):
        seed, sparsity = one
        return post(client, draw_image(seed=seed), sparsity=sparsity, top_k=1).json()["predictions"][0]

    alone = [ask(one) for one in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(ask, asked))
    for one, other in zip(alone, together, strict=True):
        assert one["classes"][0]["index"] == other["classes"][0]["index"]
        assert one["classes"][0]["probability"] == pytest.approx(other["classes"][0]["probability"], rel=1e-3)
        assert one["skip_ratio"] == pytest.approx(other["skip_ratio"], abs=2e-3)


def test_top_k_names_at_most_all_classes(client, draw_image):
    assert len(post(client, draw_image(), top_k=1000).json()["predictions"][0]["classes"]) == 10


def test_a_request_id_is_taken_or_made(client, draw_image):
    kept = post(client, draw_image(), PNG | {"X-Request-ID": "abc-1.2_3"})
    assert kept.headers["X-Request-ID"] == kept.json()["request_id"] == "abc-1.2_3"
    for bad in ("a b", "x" * 129, "ü".encode().decode("latin-1")):
        made = post(client, draw_image(), PNG | {"X-Request-ID": bad.encode("latin-1")})
        assert made.headers["X-Request-ID"] != bad
        assert len(made.headers["X-Request-ID"]) == 32
