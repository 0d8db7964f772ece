"""The device threads: batches that run at once, what each is told, and whether all of them move."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from tests.service.engines import Around, wait_for

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
