"""The folder of models: what is a version there, what is left alone, and what cannot be looked into."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lccl.bundle.format import save
from service.inference.folder import look, stamp
from tests.conftest import random_bundle


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    save(random_bundle(), folder)
    return folder


@pytest.fixture
def folder(tmp_path, saved):
    """``flat`` of version 1 and ``many`` with version 2."""
    shutil.copytree(saved, tmp_path / "flat")
    shutil.copytree(saved, tmp_path / "many" / "2")
    return tmp_path


ALL = {("flat", "1"), ("many", "2")}


@pytest.mark.parametrize(
    "where",
    [".hidden", ".ipynb_checkpoints/flat", "flat/.ipynb_checkpoints", "many/.ipynb_checkpoints", "many/..2026_01_01"],
)
def test_what_is_hidden_is_left_alone(folder, saved, where):
    shutil.copytree(saved, folder / where)
    assert look(folder).homes.keys() == ALL


def test_foreign_files_and_folders_are_left_alone(folder):
    (folder / "README.md").write_text("models")
    (folder / "lost+found").mkdir()
    (folder / "flat" / "notes").mkdir()
    (folder / "flat" / "notes" / "bundle.json").mkdir()
    (folder / "many" / "old.zip").write_bytes(b"PK")
    (folder / "dangling").symlink_to(folder / "nowhere")
    found = look(folder)
    assert found.homes.keys() == ALL
    assert not found.unsure


def test_a_volume_of_kubernetes_is_followed(folder, saved):
    volume = folder / "mounted"
    volume.mkdir()
    shutil.copytree(saved, volume / "..first")
    (volume / "..data").symlink_to("..first")
    for name in os.listdir(saved):
        (volume / name).symlink_to(f"..data/{name}")
    assert look(folder).homes.keys() == ALL | {("mounted", "1")}
    before = stamp(volume)
    shutil.copytree(volume / "..first", volume / "..second")
    (volume / "..data.new").symlink_to("..second")
    (volume / "..data.new").replace(volume / "..data")
    assert stamp(volume) != before


def test_what_cannot_be_looked_into_is_unsure(folder, monkeypatch):
    scandir = os.scandir

    def scan(path):
        if Path(path).name == "many":
            raise PermissionError(13, "denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    found = look(folder)
    assert found.homes.keys() == {("flat", "1")}
    assert found.unsure == {"many"}


@pytest.mark.parametrize(("name", "unsure"), [("strange", "strange"), ("2", "many")])
def test_what_cannot_even_be_told_a_folder_hides_no_others(folder, monkeypatch, name, unsure):
    (folder / "strange").mkdir()
    stat = Path.stat

    def denied(path, **how):
        if name in path.parts:
            raise PermissionError(13, "denied")
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", denied)
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: denied(Path(path)) and scandir(path))
    found = look(folder)
    assert ("flat", "1") in found.homes
    assert found.unsure == {unsure}


def test_a_description_that_cannot_be_read_leaves_the_version_unsure(folder):
    (folder / "flat" / "bundle.json").write_text("{")
    found = look(folder)
    assert found.homes.keys() == {("flat", "unreadable"), ("many", "2")}
    assert found.unsure == {"flat"}


def test_without_the_folder_nothing_is_known(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        look(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["bundle.json", "model.safetensors"])
def test_a_stamp_changes_with_either_file(folder, name):
    home, seen = folder / "flat", set()
    file = home / name
    seen.add(stamp(home))
    assert stamp(home) in seen
    content, times = file.read_bytes(), file.stat()
    file.write_bytes(content[:-1])
    seen.add(stamp(home))
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as rsync and cp -p do
    seen.add(stamp(home))
    file.rename(home / "aside")
    seen.add(stamp(home))
    assert len(seen) == 4


@pytest.mark.parametrize("name", ["int8.safetensors", "model.sig"])
def test_a_stamp_changes_when_a_file_arrives_that_was_missing(folder, name):
    """A version that failed without it is tried again."""
    before = stamp(folder / "flat")
    (folder / "flat" / name).write_bytes(b"there")
    assert stamp(folder / "flat") != before


def test_of_several_folders_the_first_that_has_a_version_counts(folder, saved, tmp_path_factory):
    second = tmp_path_factory.mktemp("second")
    for place in ("flat", "other/3", "many/4"):
        shutil.copytree(saved, second / place)
    found = look(folder, second)
    assert found.homes == {
        ("flat", "1"): folder / "flat", ("many", "2"): folder / "many" / "2", ("many", "4"): second / "many" / "4",
        ("other", "3"): second / "other" / "3",
    }  # fmt: skip
    assert found.covered == [second / "flat"]


def test_a_folder_that_cannot_be_read_leaves_the_others(folder, tmp_path):
    found = look(tmp_path / "nowhere", folder)
    assert found.homes.keys() == ALL
    assert found.unreadable == [tmp_path / "nowhere"]


def test_a_name_that_is_unsure_in_one_folder_is_not_taken_from_the_next(folder, saved, tmp_path_factory):
    second = tmp_path_factory.mktemp("second")
    shutil.copytree(saved, second / "flat")
    (folder / "flat" / "bundle.json").write_text("{")
    found = look(folder, second)
    assert ("flat", "1") not in found.homes
    assert found.unsure == {"flat"}
