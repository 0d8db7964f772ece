"""A model on a GPU, with stand-ins for the GPU and for the engine that runs there: what is told of both."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from lccl.engines.cuda.devices import experimental
from lccl.engines.reference import ReferenceEngine
from service.telemetry.gpu import gpus_in_use

RESERVED = {0: 0, 1: 300}


class StandInEngine(ReferenceEngine):
    """Stands in for the cuda engine, which needs a GPU: the reference engine on the CPU under its name."""

    name = "cuda"
    tiles = SimpleNamespace(source="a stand-in")

    def __init__(self, plan, device, precision, *_, **__):
        super().__init__(plan, torch.device("cpu"))
        self.precision, self.experimental = precision, experimental(device)


@pytest.fixture
def device(monkeypatch):
    """Stands in for two GPUs, of which this process has memory on the second; ``device["works"]`` until it fails."""
    state = {"works": True}

    def whole(gpu):
        if not state["works"]:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return 600, 1000

    for name, reading in {
        "device_count": lambda: 2,
        "get_device_name": lambda _: "Model A",
        "memory_allocated": lambda gpu: {0: 0, 1: 200}[gpu],
        "memory_reserved": RESERVED.__getitem__,
        "mem_get_info": whole,
    }.items():
        monkeypatch.setattr(torch.cuda, name, reading)
    monkeypatch.setitem(sys.modules, "lccl.engines.cuda.engine", SimpleNamespace(CudaEngine=StandInEngine))
    return state


def memory(client):
    """What /metrics says of each GPU's memory."""
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    samples = families["lccl_gpu_memory_bytes"].samples
    return {(sample.labels["device"], sample.labels["kind"]): sample.value for sample in samples}


def test_a_model_on_a_gpu_says_what_runs_it_and_the_gpu_what_it_holds(serve, device):
    with serve(device="cuda:1") as client:
        model = client.get("/v1/models/small").json()
        assert (model["engine"], model["precision"], model["experimental"]) == ("cuda", "fp16", True)
        sizes = {"allocated": 200, "reserved": 300, "used": 400, "total": 1000}
        assert memory(client) == {("cuda:1", kind): size for kind, size in sizes.items()}


def test_memory_is_read_at_every_scrape_and_a_failed_gpu_takes_only_its_own_readings_away(serve, device, monkeypatch):
    with serve(device="cuda:1") as client:
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 250)
        device["works"] = False
        found = memory(client)
    assert (found["cuda:1", "allocated"], found["cuda:1", "reserved"]) == (250, 300)
    assert math.isnan(found["cuda:1", "used"])
    assert math.isnan(found["cuda:1", "total"])


def test_without_a_gpu_nothing_is_told_of_its_memory(client):
    assert gpus_in_use() == []
    assert memory(client) == {}
    assert client.get("/v1/models/small").json()["experimental"] is False
