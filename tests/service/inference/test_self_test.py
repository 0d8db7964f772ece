"""The self-test: each model's own, whatever becomes of others'; nothing ends the rounds, and their end is noticed."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from service.inference.self_test import SelfTest
from tests.service.engines import Wrong, wait_for

EVERY_S = 0.3
READY = "/v2/models/{}/ready"


def statuses(client):
    return [client.get(path).status_code for path in ("/health/ready", READY.format("small"), READY.format("twin"))]


@pytest.fixture(name="serve")
def _serve(serve, models_folder):
    return partial(serve, models=models_folder, self_test_interval_s=EVERY_S)


@pytest.fixture
def client(serve):
    with serve() as client:
        yield client


@pytest.fixture
def models(client):
    registry = client.app.state.registry
    return registry.find("small"), registry.find("twin")


def passes(model):
    before = model.passed_at
    wait_for(lambda: model.passed_at > before)


def test_a_model_that_fails_is_not_ready_and_the_server_is(client, models, caplog):
    small, twin = models
    twin.engine = Wrong(twin.engine)
    wait_for(lambda: client.get(READY.format("twin")).status_code == 503)
    passes(small)
    assert statuses(client) == [200, 200, 503]
    assert "twin failed its self-test" in caplog.text
    assert "twin did not pass" in client.get(READY.format("twin")).text


def test_the_server_is_not_ready_while_its_default_model_fails(client, models):
    small, twin = models
    small.engine = Wrong(small.engine)
    wait_for(lambda: client.get("/health/ready").status_code == 503)
    passes(twin)
    assert statuses(client) == [503, 503, 200]


def test_a_model_that_does_not_answer_keeps_no_other_from_its_test(serve, monkeypatch):
    test = SelfTest._test

    async def hang(self, model):
        await (asyncio.sleep(60) if model.name == "small" else test(self, model))

    monkeypatch.setattr(SelfTest, "_test", hang)
    with serve() as client:
        twin = client.app.state.registry.find("twin")
        for _ in range(5):
            passes(twin)
        wait_for(lambda: statuses(client) == [503, 503, 200])


@pytest.mark.parametrize(
    ("what", "told"), [("_test", "the self-test of small failed"), ("begin", "a round of self-tests failed")]
)
def test_nothing_ends_the_rounds(serve, monkeypatch, caplog, what, told):
    failures, sound = (
        iter((RuntimeError("strange"), MemoryError(), OSError(5, "input/output"))),
        getattr(SelfTest, what),
    )

    async def failing(*arguments):
        if (failure := next(failures, None)) is not None:
            raise failure
        await sound(*arguments)

    monkeypatch.setattr(SelfTest, what, failing)
    with serve() as client:
        wait_for(lambda: told in caplog.text)
        for model in client.app.state.registry:
            passes(model)
        assert statuses(client) == [200, 200, 200]


def test_rounds_that_do_not_go_on_are_noticed(serve, monkeypatch):
    async def stand_still(_):
        pass

    monkeypatch.setattr(SelfTest, "begin", stand_still)
    with serve() as client:
        wait_for(lambda: "self-tests have ended" in client.get("/health/ready").text)
        assert statuses(client) == [503, 503, 503]
