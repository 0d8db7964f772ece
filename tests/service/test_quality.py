"""Over HTTP: deadlines choose quality, brown-out comes before black-out, fairness, versions, and failing engines."""

from __future__ import annotations

import gc
import hashlib
import io
import re
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from PIL import Image

from lccl.bundle.format import save
from service.inference.cost import CostModel
from service.inference.self_test import warm_up
from tests.conftest import random_bundle
from tests.service.engines import Gated, Poisoned, Slow, Wrong, wait_for

PNG = {"Content-Type": "image/png"}
PERMISSION = {"operating_point": "exact", "max_accuracy_drop": 9}  # up to p40 in the test models' table


@contextmanager
def slowed(serve, seconds, batch_limit=4, **settings):
    """A server on a device that takes so long for an exact image, and knows it."""
    with serve(decode_threads=4, compute_streams=1, self_test_interval_s=600, **settings) as client:
        state = client.app.state
        model = state.registry.find("small")
        model.engine = Slow(model.engine, seconds)
        model.engine.batch_limit = batch_limit
        cost: CostModel = state.runner._cost
        cost.forget(model.key)
        warm_up(model, cost)
        model.engine.batches.clear()
        yield client


def ask(client, image, **quality):
    return client.post("/v1/classify", content=image(), headers=PNG, params=quality)


def metric(client, name):
    found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_with_time_enough_a_deadline_gets_exact(client, draw_image):
    for answer in (
        ask(client, draw_image, deadline_ms=5000),
        client.post("/v1/classify", content=draw_image(), headers=PNG | {"X-LCCL-Deadline-Ms": "5000"}),
        client.post("/v1/classify", files={"file": draw_image()}, data={"deadline_ms": "5000"}),
    ):
        assert answer.status_code == 200, answer.text
        assert answer.json()["operating_point"]["name"] == "exact"
        assert not answer.json()["operating_point"]["downgraded"]


def test_with_little_time_it_gets_the_least_sparse_point_that_fits(serve, draw_image):
    with slowed(serve, 0.8, batch_limit=1) as client:  # 720 ms, 600, 480 and 320 for the four points
        for deadline_ms, point in ((900, "exact"), (680, "p25"), (560, "p40"), (420, "p60")):
            answer = ask(client, draw_image, deadline_ms=deadline_ms)
            assert answer.json()["operating_point"]["name"] == point
        refused = ask(client, draw_image, deadline_ms=420, max_accuracy_drop=3)
        assert refused.status_code == 504
        assert refused.json()["code"] == "deadline"


def test_a_deadline_that_cannot_be_met_costs_no_compute(serve, draw_image):
    with slowed(serve, 0.4, batch_limit=1) as client:
        answer = ask(client, draw_image, deadline_ms=20)
        assert answer.status_code == 504
        assert answer.json()["code"] == "deadline"
        assert not client.app.state.registry.find("small").engine.batches
        assert metric(client, 'lccl_rejected_total{model="small",reason="deadline"}') == 1


@pytest.mark.parametrize("milliseconds", [0, -1, "NaN", "inf", "x", ""])
def test_a_deadline_that_is_no_time_is_422(client, draw_image, milliseconds):
    assert ask(client, draw_image, deadline_ms=milliseconds).status_code == 422


def test_headers_carry_wishes(client, draw_image):
    def send(**headers):
        named = {f"X-LCCL-{name.replace('_', '-')}": value for name, value in headers.items()}
        return client.post("/v1/classify", content=draw_image(), headers=PNG | named)

    assert send(Sparsity="0.25").json()["operating_point"]["name"] == "p25"
    assert send(Operating_Point="p40").json()["operating_point"]["name"] == "p40"
    assert send(Max_Accuracy_Drop="3").json()["operating_point"]["name"] == "p25"
    for wrong in ({"Sparsity": "2"}, {"Sparcity": "0.2"}, {"Sparsity": "0.2", "Operating_Point": "p40"}):
        assert send(**wrong).status_code == 422
    twice = client.post("/v1/classify?sparsity=0.2", content=draw_image(), headers=PNG | {"X-LCCL-Sparsity": "0.2"})
    assert twice.json()["code"] == "invalid_field"


def test_under_overload_only_those_who_allow_it_are_served_sparser_and_never_past_their_floor(serve, draw_image):
    requests = [PERMISSION, {}, {"sparsity": 0.25}, PERMISSION]
    with slowed(serve, 0.03, queue_target_ms=60) as client, ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda number: ask(client, draw_image, **requests[number % 4]), range(120)))
        assert {answer.status_code for answer in answers} == {200}
        points = [answer.json()["operating_point"] for answer in answers]
        allowing = [point for number, point in enumerate(points) if number % 4 in {0, 3}]
        assert {point["name"] for point in allowing} <= {"exact", "p25", "p40"}
        assert sum(point["downgraded"] for point in allowing) > 20
        assert all(point["downgraded"] == (point["name"] != "exact") for point in allowing)
        for number, point in enumerate(points):
            if number % 4 in {1, 2}:
                assert point["name"] == ("exact" if number % 4 == 1 else "p25")
                assert not point["downgraded"]
        downgraded = metric(client, 'lccl_downgraded_total{model="small"}')
        assert downgraded == sum(point["downgraded"] for point in points)
        assert metric(client, "lccl_brownout_level") > 0


def test_brown_out_can_be_switched_off(serve, draw_image):
    with slowed(serve, 0.02, queue_target_ms=20, brownout=False) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(client, draw_image, **PERMISSION), range(32)))
        assert {answer.json()["operating_point"]["name"] for answer in answers} == {"exact"}


def test_one_client_cannot_fill_the_queue(serve, draw_image, tmp_path):
    keys = tmp_path / "keys.toml"
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("hog", "polite")}
    keys.write_text("".join(f'[keys.{name}]\nsha256 = "{digest}"\n' for name, digest in digests.items()))
    keys.chmod(0o600)

    def send(name, count=1):
        headers = {"X-API-Key": name}
        return client.post("/v1/classify", files=[("file", draw_image())] * count, headers=headers).status_code

    with serve(api_keys=keys, queue_limit=9, max_images=4, compute_streams=1) as client, ThreadPoolExecutor(16) as pool:
        model = client.app.state.registry.find("small")
        model.engine = Gated(model.engine)
        pool.submit(send, "hog")
        wait_for(lambda: model.engine.entered)
        hogging = [pool.submit(send, "hog") for _ in range(12)]
        wait_for(lambda: sum(one.done() for one in hogging) == 12 - 8)
        assert {one.result() for one in hogging if one.done()} == {429}
        polite = pool.submit(send, "polite")
        wait_for(lambda: client.app.state.batcher.depth(model.key) == 9)
        model.engine.go.set()
        assert polite.result() == 200


def test_versions_are_asked_for_by_path(serve, tmp_path, draw_image):
    for version in ("1", "2"):
        save(random_bundle(), tmp_path / "many" / version)
    with serve(models=tmp_path) as client:
        for path, version in (("", "2"), ("/versions/1", "1"), ("/versions/2", "2")):
            answer = client.post(f"/v1/models/many{path}/classify", content=draw_image(), headers=PNG)
            assert answer.json()["version"] == version
        missing = client.post("/v1/models/many/versions/3/classify", content=draw_image(), headers=PNG)
        assert missing.status_code == 404
        assert "there is 1, 2" in missing.json()["detail"]


def black():
    out = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_a_image_that_fails_the_engine_fails_alone(serve, draw_image, error):
    with serve() as client:
        model = client.app.state.registry.find("small")
        model.engine = Poisoned(model.engine, error)
        files = [("file", black() if number == 3 else draw_image(seed=number)) for number in range(8)]
        answer = client.post("/v1/classify", files=files)
        assert answer.status_code == 200
        outcomes = ["error" if "error" in one else "classes" for one in answer.json()["predictions"]]
        assert outcomes == ["classes"] * 3 + ["error"] + ["classes"] * 4
        assert 8 in model.engine.batches
        assert client.post("/v1/classify", content=black(), headers=PNG).status_code == 500
        assert client.post("/v1/classify", content=draw_image(), headers=PNG).status_code == 200
        assert client.get("/health/live").status_code == 200


def test_a_model_that_fails_its_self_test_is_not_ready(serve, draw_image):
    with serve(self_test_interval_s=0.1) as client:
        wait_for(lambda: client.get("/health/ready").status_code == 200)
        model = client.app.state.registry.find("small")
        right, model.engine = model.engine, Wrong(model.engine)
        wait_for(lambda: client.get("/health/ready").status_code == 503)
        assert "self-test" in client.get("/health/ready").json()["detail"]
        assert client.get("/health/live").status_code == 200
        model.engine = right
        wait_for(lambda: client.get("/health/ready").status_code == 200)


def test_the_folder_is_followed_when_asked_for(serve, tmp_path, draw_image):
    save(random_bundle(), tmp_path / "first")
    with serve(models=tmp_path, watch_models_s=0.1) as client:
        save(random_bundle(), tmp_path / "second")
        for _ in range(100):
            time.sleep(0.1)
            answer = client.post("/v1/models/second/classify", content=draw_image(), headers=PNG)
            if answer.status_code == 200:
                break
        assert answer.status_code == 200
        assert httpx.get(f"{client.base_url}/v1/models").json()["default"] == "first"


def test_a_model_that_is_no_longer_served_gives_its_memory_back(serve, tmp_path, draw_image):
    save(random_bundle(), tmp_path / "first")
    save(random_bundle(), tmp_path / "second")
    with serve(models=tmp_path) as client:
        registry = client.app.state.registry
        assert client.post("/v1/models/second/classify?sparsity=0.3", content=draw_image()).status_code == 200
        engine = weakref.ref(registry.find("second").engine)
        registry.unload("second")
        gc.collect()
        wait_for(lambda: engine() is None)
        assert "second" not in re.findall(r'lccl_model_info{.*model="(.*?)"', client.get("/metrics").text)


def test_versions_come_go_and_are_swapped_under_traffic_and_no_request_fails(serve, tmp_path, draw_image):
    save(random_bundle(), tmp_path / "many" / "1")
    with serve(models=tmp_path) as client, ThreadPoolExecutor(4) as pool:
        registry, stop = client.app.state.registry, threading.Event()

        def ask_on(seed):
            answers = []
            with httpx.Client(base_url=client.base_url, timeout=30, verify=False) as own:
                while not stop.is_set():
                    answer = own.post("/v1/classify?sparsity=0.3", content=draw_image(seed=seed), headers=PNG)
                    answers.append((answer.status_code, answer.json().get("version")))
            return answers

        askers = [pool.submit(ask_on, seed) for seed in range(4)]
        save(random_bundle(), tmp_path / "many" / "2")
        for _ in range(3):
            registry.load("many", "2")
            registry.load("many", "1")
            registry.unload("many", "2")
        stop.set()
        answers = [answer for asker in askers for answer in asker.result()]
    assert {status for status, _ in answers} == {200}
    assert {version for _, version in answers} == {"1", "2"}
