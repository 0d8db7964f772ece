"""A GPU model is proven by a record of tests that all passed on it, and by nothing else."""

import json

import pytest
import torch

from lccl.engines.cuda import devices
from lccl.engines.cuda.devices import experimental, proven, slug
from lccl.errors import EngineError

NAME = "NVIDIA H200"
RECORD = {"device": NAME, "passed": 120, "failed": 0, "errors": 0, "commit": "0" * 40, "torch": "2.11.0"}


@pytest.fixture
def record(tmp_path):
    """Writes a folder of records with this one in it."""

    def write(text=None, **changed):
        (tmp_path / "nvidia-h200.json").write_text(json.dumps(RECORD | changed) if text is None else text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (NAME, "nvidia-h200"),
        ("NVIDIA A100-SXM4-80GB", "nvidia-a100-sxm4-80gb"),
        ("NVIDIA RTX 6000 (Ada)", "nvidia-rtx-6000-ada"),
        ("../../etc", "etc"),
    ],
)
def test_a_model_has_a_file_of_its_name(name, file):
    assert slug(name) == file


def test_a_model_is_proven_by_tests_that_all_passed(record):
    assert proven(NAME, record())


@pytest.mark.parametrize("changed", [{"failed": 1}, {"errors": 1}, {"passed": 0}, {"device": "NVIDIA H100"}])
def test_a_model_is_not_proven_by_anything_less(record, changed):
    assert not proven(NAME, record(**changed))


def test_a_model_without_a_record_is_not_proven(record, tmp_path):
    assert not proven("NVIDIA H100", record())
    assert not proven(NAME, tmp_path / "there is no such folder")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", "{}", json.dumps(RECORD | {"passed": True}), json.dumps(RECORD | {"failed": "0"}), "\0"],
)
def test_a_broken_record_is_named(record, text):
    with pytest.raises(EngineError, match=r"nvidia-h200\.json is no record"):
        proven(NAME, record(text))


def test_every_record_that_is_committed_proves_the_model_it_is_named_after():
    for file in devices.PROVEN.glob("*"):
        name = json.loads(file.read_text())["device"]
        assert file.name == f"{slug(name)}.json"
        assert proven(name)


@pytest.mark.parametrize("model", [NAME, "NVIDIA H100"])
def test_a_gpu_is_experimental_unless_its_model_is_proven(record, monkeypatch, model):
    """A stand-in for torch says what GPU there is."""
    monkeypatch.setattr(devices, "PROVEN", record())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: model)
    assert experimental(torch.device("cuda", 0)) == (model != NAME)


def test_interpreted_kernels_are_experimental():
    assert experimental(torch.device("cpu"))
