"""The device threads: batches that run at once, what each is told, and whether all of them move."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from service.inference.self_test import warm_up
from tests.service.engines import Around, Gated, Slow, wait_for
from tests.service.test_fairness import client_at

PNG = {"Content-Type": "image/png"}


class Meeting(Around):
    """Holds every call until as many are inside as there are streams."""

    def __init__(self, engine, calls):
        super().__init__(engine)
        self._met, self.told = threading.Barrier(calls), []

    def run(self, images, options, *, sharing=False):
        self.told.append(sharing)
        self._met.wait(20)
        return self._engine.run(images, options, sharing=sharing)


def test_two_batches_run_at_once_and_the_second_knows(serve, draw_image):
    with serve(compute_threads=2, self_test_interval_s=600) as client, ThreadPoolExecutor(2) as pool:
        model = client.app.state.registry.find("small")
        model.engine = Meeting(model.engine, 2)
        first = pool.submit(client.post, "/v1/classify", content=draw_image(), headers=PNG)
        wait_for(lambda: model.engine.told)
        assert client.post("/v1/classify", content=draw_image(), headers=PNG).status_code == 200
        assert first.result().status_code == 200
        assert model.engine.told == [False, True]


def test_a_batch_that_finds_the_device_idle_has_all_of_it(serve, draw_image):
    with serve(compute_threads=2, self_test_interval_s=600) as client:
        model = client.app.state.registry.find("small")
        model.engine = Meeting(model.engine, 1)
        for _ in range(3):
            assert client.post("/v1/classify", content=draw_image(), headers=PNG).status_code == 200
        assert model.engine.told == [False] * 3


def test_one_thread_that_hangs_is_noticed_though_the_other_serves(serve, draw_image):
    with serve(compute_threads=2, self_test_interval_s=600) as client, ThreadPoolExecutor(2) as pool:
        state = client.app.state
        model = state.registry.find("small")
        engine = model.engine
        model.engine = Meeting(engine, 2)
        stuck = pool.submit(client.post, "/v1/classify", content=draw_image(), headers=PNG)
        wait_for(lambda: model.engine.told)
        meeting, model.engine = model.engine, engine
        assert client.post("/v1/classify", content=draw_image(), headers=PNG).status_code == 200
        wait_for(lambda: not state.runner.moves(0.8))
        assert state.runner.moves(60)
        meeting._met.abort()
        assert stuck.result().status_code == 500


def test_a_batch_is_short_while_others_wait_and_longer_when_alone(serve, draw_image):
    form = [("file", draw_image(seed=seed)) for seed in range(16)]
    with serve(compute_streams=1, self_test_interval_s=600) as client, ThreadPoolExecutor(4) as pool:
        state = client.app.state
        model = state.registry.find("small")
        model.engine = Slow(model.engine, 0.012)
        model.engine.batch_limit = 32
        state.runner._cost.forget(model.key)
        warm_up(model, state.runner._cost)
        model.engine.batches.clear()
        assert client.post("/v1/classify", files=form).status_code == 200
        alone = max(model.engine.batches)
        model.engine.batches.clear()
        with client_at(client.base_url, "127.0.0.2") as greedy, client_at(client.base_url, "127.0.0.3") as other:
            sent = [pool.submit(one.post, "/v1/classify", files=form) for one in (greedy, other) * 2]
            assert [one.result().status_code for one in sent] == [200] * 4
        together = model.engine.batches
    assert 5 <= alone <= 9
    assert sum(size <= 4 for size in together) >= 4


def test_who_has_an_answer_finds_its_image_counted(serve, draw_image, monkeypatch):
    with serve(self_test_interval_s=600) as client:
        runner = client.app.state.runner
        enter = runner._on_batch
        monkeypatch.setattr(runner, "_on_batch", lambda *batch: (time.sleep(0.2), enter(*batch)))
        before = counted(client)
        assert client.post("/v1/classify", content=draw_image(), headers=PNG).status_code == 200
        assert counted(client) == before + 1


def counted(client):
    return sum(
        float(value) for value in re.findall(r"^lccl_images_total\{.*\} (\S+)$", client.get("/metrics").text, re.M)
    )


def test_a_deadline_is_the_requests_even_if_some_images_were_in_time(serve, draw_image):
    form = [("file", draw_image(seed=seed)) for seed in range(16)]
    with serve(compute_streams=1, self_test_interval_s=600, request_timeout_s=30) as client:
        state = client.app.state
        model = state.registry.find("small")
        model.engine = Slow(model.engine, 0.05)
        model.engine.batch_limit = 2
        answer = client.post("/v1/classify?deadline_ms=300&max_accuracy_drop=50", files=form)
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline")
        assert 2 <= sum(model.engine.batches) < 16
        wait_for(lambda: not state.batcher.depth(model.key))


def test_what_was_learnt_of_a_model_that_is_gone_is_forgotten(serve, draw_image):
    with serve(self_test_interval_s=600) as client, ThreadPoolExecutor(1) as pool:
        state = client.app.state
        model = state.registry.find("small")
        model.engine = Gated(model.engine)
        asked = pool.submit(client.post, "/v1/classify", content=draw_image(), headers=PNG)
        wait_for(lambda: model.engine.entered)
        state.registry.load("small")
        assert state.registry.find("small") is not model
        model.engine.go.set()
        assert asked.result().status_code == 200
        wait_for(lambda: model.key not in state.runner._cost._lines and model.key not in state.batcher._queues)
        assert state.batcher.drained_per_s(model.key) == 0


def test_a_model_that_fails_has_used_the_device_too(serve, draw_image):
    """Else it would always be the one that had the least, and others would wait as long as anybody asks for it."""
    with serve(self_test_interval_s=600) as client:
        state = client.app.state
        model = state.registry.find("small")
        model.engine = Gated(model.engine)
        model.engine.fail = True
        threading.Timer(0.2, model.engine.go.set).start()
        assert client.post("/v1/classify", content=draw_image(), headers=PNG).status_code == 500
        assert state.batcher._queues[model.key].served_s > 0.1
