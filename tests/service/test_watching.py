"""Faults in the folder of models under load: no request fails, and what is on disk in the end is served."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest

from lccl.bundle.format import save
from service.inference import registry as registries
from tests.conftest import random_bundle
from tests.service.engines import wait_for

PNG = {"Content-Type": "image/png"}
EVERY_S = 0.1


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two versions of a bundle, apart from any folder of models."""
    folder, bundle = tmp_path_factory.mktemp("saved"), random_bundle()
    for version in ("1", "2"):
        save(replace(bundle, version=version), folder / version)
    return folder


@contextmanager
def under_load(serve, folder, image, **settings):
    """A server that follows a folder while requests for its default model are sent; all of them must be answered."""
    stop, statuses = threading.Event(), []

    def send(base):
        with httpx.Client(base_url=base, timeout=30, verify=False) as client:
            while not stop.is_set():
                statuses.append(client.post("/v1/models/net/classify", content=image, headers=PNG).status_code)
                statuses.append(client.get("/v1/models").status_code)
                time.sleep(0.01)

    with (
        serve(models=folder, watch_models_s=EVERY_S, self_test_interval_s=600, **settings) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        senders = [pool.submit(send, client.base_url) for _ in range(2)]
        try:
            yield client
        finally:
            stop.set()
        for sender in senders:
            sender.result()
    assert set(statuses) == {200}


def served(client):
    return [(model.name, model.version) for model in client.app.state.registry]


@pytest.fixture
def folder(tmp_path, saved):
    """A folder whose only model is ``net``, of version 1."""
    folder = tmp_path / "models"
    shutil.copytree(saved / "1", folder / "net")
    return folder


def looks(count=4):
    time.sleep(count * EVERY_S)


def test_a_half_copied_version_is_served_once_it_is_whole(serve, folder, saved, draw_image):
    with under_load(serve, folder, draw_image()) as client:
        home = folder / "net" / "3"
        home.mkdir()
        shutil.copy(saved / "2" / "bundle.json", home)
        looks()
        weights = (saved / "2" / "model.safetensors").read_bytes()
        (home / "model.safetensors").write_bytes(weights[:-1000])
        looks()
        assert served(client) == [("net", "1")]
        (home / "model.safetensors").write_bytes(weights)
        wait_for(lambda: served(client) == [("net", "1"), ("net", "3")])


def test_a_version_replaced_while_it_is_read_is_read_again(serve, folder, saved, draw_image, monkeypatch):
    make, met = registries.Registry._make, []

    def replaced(self, name, version, home):
        made = make(self, name, version, home)
        if not met:
            met.append(version)
            for file in ("model.safetensors", "bundle.json"):
                shutil.copy(saved / "2" / file, home / file)
        return made

    with under_load(serve, folder, draw_image()) as client:
        monkeypatch.setattr(registries.Registry, "_make", replaced)
        shutil.copytree(saved / "1", folder / "net" / "7")
        wait_for(lambda: ("net", "7") in served(client))
        wait_for(lambda: client.app.state.registry.find("net", "7").bundle.version == "2")


def test_a_bundle_overwritten_in_pieces_leaves_the_old_one_serving(serve, folder, saved, draw_image):
    with under_load(serve, folder, draw_image()) as client:
        home, text = folder / "net", (saved / "2" / "bundle.json").read_text()
        (home / "bundle.json").write_text(text[: len(text) // 2])
        looks()
        assert served(client) == [("net", "1")]
        shutil.copy(saved / "2" / "model.safetensors", home)
        (home / "bundle.json").write_text(text)
        wait_for(lambda: served(client) == [("net", "2")])
        wait_for(lambda: [entry.version for entry in client.app.state.registry.index()] == ["2"])


def test_a_folder_that_is_gone_for_a_while_changes_nothing(serve, folder, draw_image):
    with under_load(serve, folder, draw_image()) as client:
        before = client.app.state.registry.find("net")
        folder.rename(folder.with_name("away"))
        looks()
        folder.with_name("away").rename(folder)
        looks()
        assert client.app.state.registry.find("net") is before


def test_a_model_that_is_taken_away_goes_and_may_come_back(serve, folder, saved, draw_image):
    shutil.copytree(saved / "1", folder / "other")
    with under_load(serve, folder, draw_image()) as client:
        (folder / "other").rename(folder / ".away")
        wait_for(lambda: ("other", "1") not in served(client))
        (folder / ".away").rename(folder / "other")
        wait_for(lambda: ("other", "1") in served(client))


def test_foreign_and_hidden_files_are_no_models(serve, folder, saved, draw_image):
    shutil.copytree(saved / "1", folder / "net" / ".ipynb_checkpoints")
    (folder / "notes.txt").write_text("")
    with under_load(serve, folder, draw_image()) as client:
        shutil.copytree(saved / "1", folder / ".git")
        (folder / "broken").mkdir()
        (folder / "broken" / "bundle.json").write_text("no JSON")
        looks()
        assert served(client) == [("net", "1")]
        assert [entry.state for entry in client.app.state.registry.index()] == ["UNAVAILABLE", "READY"]


def test_nothing_ends_the_watcher(serve, folder, saved, draw_image, monkeypatch, caplog):
    make, failures = registries.Registry._make, iter((RuntimeError("the device is lost"), OSError(5, "input/output")))

    def failing(self, name, version, home):
        if (failure := next(failures, None)) is not None:
            raise failure
        return make(self, name, version, home)

    look, looked = registries.look, iter((MemoryError(), ValueError("strange")))

    def failing_look(path):
        if (failure := next(looked, None)) is not None:
            raise failure
        return look(path)

    with under_load(serve, folder, draw_image()) as client:
        monkeypatch.setattr(registries.Registry, "_make", failing)
        monkeypatch.setattr(registries, "look", failing_look)
        shutil.copytree(saved / "2", folder / "net" / "2")
        wait_for(lambda: ("net", "2") in served(client))
    assert "a look at the folder of models failed" in caplog.text
    assert "the device is lost" in caplog.text


def test_without_any_model_the_list_is_empty_and_requests_are_told_so(serve, folder, draw_image):
    with serve(models=folder, watch_models_s=EVERY_S, self_test_interval_s=600) as client:
        shutil.rmtree(folder / "net")
        wait_for(lambda: not served(client))
        assert client.get("/v1/models").json() == {"default": None, "models": []}
        answer = client.post("/v1/classify", content=draw_image(), headers=PNG)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200
