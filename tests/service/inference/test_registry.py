"""The registry: names and versions, loading, swapping, unloading, following the folder, keeping what works."""

from __future__ import annotations

import gc
import os
import shutil
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from lccl.bundle import self_test
from lccl.bundle.format import load, save
from lccl.compiler import compile_network
from lccl.errors import BundleError
from lccl.request import QualityRequest
from service.inference.registry import RESOLUTIONS, Registry
from tests.conftest import random_bundle
from tests.service.refusals import refused

COMPILE = partial(compile_network, threads=1)


def read(_, home):
    return load(home)


@pytest.fixture
def folder(tmp_path):
    """``flat`` of version 1 and ``many`` with versions 2 and 10."""
    bundle = random_bundle()
    save(bundle, tmp_path / "flat")
    save(bundle, tmp_path / "many" / "2")
    save(bundle, tmp_path / "many" / "10")
    return tmp_path


@pytest.fixture
def seen():
    return []


@pytest.fixture
def registry(folder, seen):
    registry = Registry(
        [folder], read, COMPILE, None,
        lambda model: seen.append(("load", model.name, model.version)),
        lambda model: seen.append(("unload", model.name, model.version)),
    )  # fmt: skip
    registry.load_all()
    seen.clear()
    return registry


def states(registry):
    return {(entry.name, entry.version): entry.state for entry in registry.index()}


def damage(home: Path) -> None:
    weights = home / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    os.utime(home / "bundle.json", ns=(1, 1))


def test_names_and_versions_are_found(registry):
    assert [(model.name, model.version) for model in registry] == [("flat", "1"), ("many", "2"), ("many", "10")]
    assert registry.find(None).name == "flat"
    assert registry.find("many").version == "10"
    assert registry.find("many", "2").version == "2"
    assert [model.version for model in registry.versions("many")] == ["2", "10"]
    assert set(states(registry).values()) == {"READY"}


@pytest.mark.parametrize(
    ("name", "version", "says"),
    [
        ("none", None, "there is flat, many"), ("many", "3", "there is 2, 10"), ("../flat", None, "no model"),
        ("", "", "no model"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(registry, name, version, says):
    with refused("unknown_model", says):
        registry.find(name, version)


@pytest.mark.parametrize("name", ["../flat", "/etc", "many/2", "", ".", "flat\0", "x" * 5000])
def test_no_name_becomes_a_path(registry, name):
    for ask in (registry.load, registry.unload):
        with refused("unknown_model"):
            ask(name)


def test_unloading_leaves_the_rest(registry, seen):
    registry.unload("many", "10")
    assert registry.find("many").version == "2"
    registry.unload("many")
    with refused("unknown_model"):
        registry.find("many")
    assert states(registry) == {("flat", "1"): "READY", ("many", "2"): "UNAVAILABLE", ("many", "10"): "UNAVAILABLE"}
    assert seen == [("unload", "many", "10"), ("unload", "many", "2")]


def test_what_was_unloaded_can_be_loaded_again(registry):
    registry.unload("many")
    registry.load("many", "2")
    assert [model.version for model in registry.versions("many")] == ["2"]
    registry.load("many")
    assert [model.version for model in registry.versions("many")] == ["2", "10"]


def test_a_swap_is_one_step_and_tells_both(registry, seen):
    old = registry.find("flat")
    (new,) = registry.load("flat")
    assert registry.find("flat") is new is not old
    assert new.key != old.key
    assert seen == [("load", "flat", "1"), ("unload", "flat", "1")]


def test_a_corrupt_bundle_leaves_the_old_version_serving(registry, folder, seen):
    old = registry.find("many", "10")
    damage(folder / "many" / "10")
    with pytest.raises(BundleError):
        registry.load("many", "10")
    assert registry.find("many", "10") is old
    assert not seen
    entry = next(entry for entry in registry.index() if entry.version == "10")
    assert entry.state == "READY"
    assert "cannot be loaded" in entry.reason


def test_a_model_that_fails_its_self_test_is_not_served(registry, folder):
    bundle = random_bundle()
    record = self_test.record(bundle, compile_network(bundle, engine="reference"))
    record["logits"]["exact"][0][0] += 1
    save(replace(bundle, self_test=record), folder / "many" / "11")
    with pytest.raises(BundleError, match="self-test"):
        registry.load("many", "11")
    assert registry.find("many").version == "10"
    assert states(registry)["many", "11"] == "UNAVAILABLE"


def test_following_the_folder(registry, folder, seen):
    registry.refresh()
    assert not seen
    save(random_bundle(), folder / "fresh" / "1")
    shutil.rmtree(folder / "many" / "2")
    damage(folder / "flat")
    registry.refresh()
    assert seen == [("load", "fresh", "1")]
    registry.refresh()
    assert [(model.name, model.version) for model in registry] == [("flat", "1"), ("fresh", "1"), ("many", "10")]
    assert seen == [("load", "fresh", "1"), ("unload", "many", "2")]
    assert ("many", "2") not in states(registry)
    registry.refresh()
    assert len(seen) == 2


def test_a_version_that_one_look_misses_stays(registry, folder, seen):
    model = registry.find("many", "2")
    for _ in range(2):
        (folder / "many" / "2").rename(folder / ".aside")
        registry.refresh()
        (folder / ".aside").rename(folder / "many" / "2")
        registry.refresh()
    assert registry.find("many", "2") is model
    assert not seen


def test_what_was_unloaded_by_hand_stays_so_until_it_changes(registry, folder):
    registry.unload("many", "2")
    registry.refresh()
    assert [model.version for model in registry.versions("many")] == ["10"]
    os.utime(folder / "many" / "2" / "bundle.json")
    registry.refresh()
    assert [model.version for model in registry.versions("many")] == ["2", "10"]


def test_hidden_folders_do_not_stop_the_start(folder):
    shutil.copytree(folder / "flat", folder / "flat" / ".ipynb_checkpoints")
    registry = Registry([folder], read, COMPILE, None, lambda _: None, lambda _: None)
    registry.load_all()
    assert len(registry) == 3


def test_without_the_default_model_that_is_said(registry):
    registry.unload("flat")
    assert registry.find(None).name == registry.default.name == "many"
    registry.unload("many")
    assert registry.default is None
    with refused("unavailable", "no model is loaded"):
        registry.find(None)


def test_a_bad_name_in_the_folder_is_refused(folder):
    shutil.move(folder / "flat", folder / "a b")
    with pytest.raises(BundleError, match="no model name"):
        Registry([folder], read, COMPILE, None, print, print).load_all()


def test_an_unloaded_model_gives_its_memory_back(registry):
    model = registry.find("many", "2")
    engine = weakref.ref(model.engine)
    registry.unload("many", "2")
    del model
    gc.collect()
    assert engine() is None


def test_resolutions_are_remembered_within_bounds(registry):
    model = registry.find("flat")
    assert model.resolve(QualityRequest(sparsity=0.3)) is model.resolve(QualityRequest(sparsity=0.3))
    for number in range(2 * RESOLUTIONS):
        model.resolve(QualityRequest(sparsity=0.2 + number * 1e-5))
    assert model.resolve.cache_info().currsize <= RESOLUTIONS


def test_a_folder_out_of_sight_keeps_what_it_had_and_the_others_go_on(folder, seen, tmp_path_factory):
    second = tmp_path_factory.mktemp("second")
    save(random_bundle(), second / "flat")
    save(random_bundle(), second / "other")
    registry = Registry(
        [folder / "many", folder, second], read, COMPILE, None,
        lambda model: seen.append(("load", model.name, model.version)),
        lambda model: seen.append(("unload", model.name, model.version)),
    )  # fmt: skip
    shutil.rmtree(folder / "many")
    registry.load_all()
    assert [model.name for model in registry] == ["flat", "other"]
    seen.clear()
    folder.rename(folder.with_name("away"))
    save(random_bundle(), second / "fresh")
    shutil.rmtree(second / "other")
    for _ in range(3):
        registry.refresh()
    assert seen == [("load", "fresh", "1"), ("unload", "other", "1")]
    folder.with_name("away").rename(folder)
    shutil.rmtree(folder / "flat")
    registry.refresh()
    assert seen[2:] == [("load", "flat", "1"), ("unload", "flat", "1")]  # swapped for the second folder's


def test_a_version_that_two_folders_have_is_told(folder, caplog):
    Registry([folder, folder], read, COMPILE, None, print, print).load_all()
    assert "is not served: a folder or source that is named before has that version too" in caplog.text
