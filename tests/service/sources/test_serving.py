"""The service on models that it fetches: new versions are served, and a source that is down is not missed."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from lccl.bundle.format import save
from tests.conftest import random_bundle
from tests.service.engines import wait_for
from tests.service.refusals import refused

PNG = {"Content-Type": "image/png"}


@pytest.fixture
def settings(tmp_path):
    return {"models": "s3://models/all", "models_cache": tmp_path / "cache", "self_test_interval_s": 600}


def served(client):
    return [(model.name, model.version) for model in client.app.state.registry]


def up(client):
    return client.app.state.metrics.registry.get_sample_value("lccl_source_up", {"source": "s3://models/all"})


def test_the_source_is_followed_and_its_loss_is_told(serve, settings, store, bundles, draw_image):
    store.put(bundles / "1", "all/net")
    with serve(fetch_models_s=0.1, **settings) as client:
        assert (served(client), up(client)) == ([("net", "1")], 1)
        store.put(bundles / "2", "all/net")
        wait_for(lambda: served(client) == [("net", "2")])
        store.proxy.is_down = True
        wait_for(lambda: up(client) == 0)
        answer = client.post("/v1/classify", content=draw_image(), headers=PNG)
        assert (answer.status_code, answer.json()["version"]) == (200, "2")
        store.proxy.is_down = False
        wait_for(lambda: up(client) == 1)
    store.proxy.is_down = True
    with serve(**settings) as client:
        assert (served(client), up(client)) == ([("net", "2")], 0)


def test_a_fetched_model_that_cannot_be_used_leaves_the_others(
    serve, start, settings, store, bundles, tmp_path, caplog
):
    store.put(bundles / "1", "all/net")
    save(replace(random_bundle(), labels=("one",)), tmp_path / "odd")  # whole, and not usable
    store.put(tmp_path / "odd", "all/odd")
    with serve(**settings) as client:
        assert served(client) == [("net", "1")]
        assert [entry.state for entry in client.app.state.registry.index()] == ["READY", "UNAVAILABLE"]
    assert "'odd' version '1' is not served" in caplog.text
    store.client.delete_object(Bucket="models", Key="all/net/bundle.json")
    said = start("--models", settings["models"], "--models-cache", str(settings["models_cache"]))
    assert "it names 1 labels for 10 classes" in said


def test_a_signal_fetches_once(serve, settings, store, bundles):
    store.put(bundles / "1", "all/net")
    with serve(**settings) as client:
        store.put(bundles / "2", "all/net")
        asyncio.run(client.app.state.reload())
        assert ("net", "2") in served(client)


def test_a_request_to_load_fetches_nothing(serve, settings, store, bundles):
    store.put(bundles / "1", "all/net")
    with serve(**settings) as client:
        store.put(bundles / "2", "all/net")
        store.put(bundles / "1", "all/other")
        assert [model.version for model in client.app.state.registry.load("net")] == ["1"]
        with refused("unknown_model"):
            client.app.state.registry.load("other")


def test_a_source_that_stalls_does_not_keep_the_end(serve, settings, store, bundles):
    store.put(bundles / "1", "all/net")

    def running(name):
        return [thread for thread in threading.enumerate() if thread.name.endswith(name) and thread not in others]

    others = threading.enumerate()  # of other tests' servers
    try:
        with serve(fetch_models_s=0.1, **settings):
            store.proxy.is_stalled = True
            wait_for(lambda: running("fetch"))
        assert running("fetch")
        assert all(thread.daemon for thread in running("fetch") + running("beside"))
        assert not running("(run)")  # the server's
    finally:
        store.proxy.is_stalled = False
    wait_for(lambda: not running("fetch"))


def test_requests_name_no_source(serve, settings, store, bundles):
    store.put(bundles / "1", "all/net")
    with serve(**settings) as client:
        for name in ("s3://models/all/other", "hf://a/b", "..", "https://h/a.tar"):
            with refused("unknown_model"):
                client.app.state.registry.load(name)


def test_without_any_model_the_start_ends_with_a_sentence(start, settings, store):
    store.proxy.is_down = True
    said = start("--models", settings["models"], "--models-cache", str(settings["models_cache"]))
    assert said.startswith("lccl-serve: there is no model to serve: s3://models/all cannot be fetched: ")
    assert len(said.splitlines()) == 1
