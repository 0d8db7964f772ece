"""How many processes serve, and what each of them gets."""

from __future__ import annotations

import json
import shutil

import pytest

from lccl.engines.cpu.cores import Cores
from service.errors import StartError
from service.processes.plan import MOST, count_processes, share
from service.settings import Settings


@pytest.fixture
def counted(small_folder, tmp_path, monkeypatch):
    """How many processes serve a model of so many MACs on so many cores."""

    def count(cores, macs=1e6, **settings):
        monkeypatch.setattr("service.processes.plan.find_cores", lambda: Cores(cores, "as the test says"))
        monkeypatch.setattr("os.sysconf", lambda _: 1 << 20)
        folder = tmp_path / "models"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(small_folder / "small", folder / "small")
        file = folder / "small" / "bundle.json"
        described = json.loads(file.read_text())
        described["operating_points"]["points"][0]["gated_macs"] = macs
        file.write_text(json.dumps(described))
        return count_processes(Settings(models=folder, **({"processes": 0, "engine": "cpu"} | settings)))

    return count


def test_a_small_model_has_a_process_for_each_core_and_a_large_one_shares_them(counted):
    assert [counted(cores) for cores in (1, 2, 4, 64)] == [1, 2, 4, MOST]
    assert [counted(cores, 1.8e9) for cores in (2, 16, 32, 64)] == [1, 1, 1, 2]
    assert counted(8, compute_threads=4) == 2


def test_memory_bounds_them(counted, tmp_path, monkeypatch):
    monkeypatch.setattr("service.processes.plan.control_groups", lambda: [tmp_path, tmp_path / "nothing here"])
    for limit, processes in ((str(1 << 40), 8), (str(2 << 30), 4), (str(1 << 28), 1), ("max", 8)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert counted(8) == processes


def test_what_is_set_is_taken(counted):
    assert counted(2, processes=5) == 5
    assert counted(64, processes=1) == 1


def test_a_gpu_has_one_process(counted, tmp_path, monkeypatch):
    monkeypatch.setattr("service.processes.plan.DRIVER", tmp_path)
    assert counted(8, engine="auto", device="auto") == 1
    assert counted(8, engine="auto", device="cpu") == 8


@pytest.mark.parametrize("named", [{"device": "cuda:0"}, {"engine": "cuda"}])
def test_a_gpu_is_not_shared_by_processes(counted, named):
    with pytest.raises(StartError, match="a GPU is served by one process"):
        counted(8, **{"engine": "auto", "processes": 2} | named)


def test_models_that_cannot_be_read_have_one_whose_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr("service.processes.plan.find_cores", lambda: Cores(8, "as the test says"))
    (tmp_path / "broken").mkdir()
    assert count_processes(Settings(models=tmp_path, processes=0)) == 1
    (tmp_path / "broken" / "bundle.json").write_text("{")
    assert count_processes(Settings(models=tmp_path, processes=0)) == 1
    assert count_processes(Settings(models=tmp_path / "nowhere", processes=0)) == 1


def test_other_systems_have_one(monkeypatch):
    for system, settings in (("win32", {}), ("darwin", {"grpc_port": 9000})):
        monkeypatch.setattr("sys.platform", system)
        assert count_processes(Settings(processes=0)) == 1
        with pytest.raises(StartError, match="set processes to 1"):
            count_processes(Settings(processes=2, **settings))
    assert count_processes(Settings(processes=2)) == 2


def test_each_gets_its_part_of_the_cores_and_limits(monkeypatch):
    monkeypatch.setattr("service.processes.plan.find_cores", lambda: Cores(8, "as the test says"))
    settings = Settings(max_images=100, queue_limit=256, max_body_bytes=1 << 20, max_inflight_bytes=1 << 22)
    each = share(settings, 4)
    assert (each.processes, each.compute_threads, each.compute_streams, each.decode_threads) == (4, 2, 2, 3)
    assert (each.queue_limit, each.max_inflight_bytes, each.max_connections) == (100, 1 << 20, 2048)
    assert share(settings, 8).compute_streams == 1
    assert share(settings.model_copy(update={"compute_threads": 3}), 4).compute_threads == 3
