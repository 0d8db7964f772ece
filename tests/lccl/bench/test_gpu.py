"""Contestants on a GPU as far as they need none: the reference engine in the own engine's place, and no compiler."""

import json
from dataclasses import replace

import pytest
import torch

from lccl.bench import gpu
from lccl.bench.gpu import BASELINES, COMPILED, Gpu
from lccl.bench.report import tables
from lccl.bench.run import Options, run
from lccl.bench.turns import WallClock
from lccl.bench.workload import DENSE, OPEN, OWN_DENSE
from lccl.engines.reference import ReferenceEngine
from lccl.errors import LcclError
from tests.lccl.bench.conftest import NoStages

CPU = torch.device("cpu")
OPTIONS = Options(rounds=2)


class StandInNetwork:
    """The reference engine in the own engine's place."""

    def __init__(self, plan, batch):
        self.engine = ReferenceEngine(plan, CPU)

    def run(self, images, options):
        return self.engine.run(images, options)

    def launch(self, images, options):
        return lambda: self.engine.run(images, options)


class WrongNetwork(StandInNetwork):
    """It answers, but not what was asked."""

    def run(self, images, options):
        output = super().run(images, options)
        return replace(output, logits=output.logits[:, ::-1])


GPU = Gpu(CPU, WallClock(), StandInNetwork, "fp16")


@pytest.fixture
def no_compiler(monkeypatch):
    """Compiling takes most of a minute; eager stands in."""
    monkeypatch.setattr(gpu, "compiled", lambda module, frozen: module)


@pytest.mark.usefixtures("no_compiler")
def test_a_network_is_measured_with_the_ratio_that_it_reached(workload):
    stages = NoStages()
    made = json.loads(json.dumps(run(workload, OPTIONS, stages, GPU)))
    assert all(done == turns for done, turns in stages.begun.values())
    assert [row["name"] for row in made["settings"]] == [OPEN, "0.25", "0.7"]
    assert made["settings"][2]["skip_reached"] == pytest.approx(0.7, abs=0.15)
    assert made["settings"][2]["gated_macs"] < made["dense_macs"] == 40551040
    baselines = [row["name"] for row in made["contestants"] if row["kind"] == "baseline"]
    assert len(baselines) == len(BASELINES)
    assert sum(name.startswith(COMPILED) for name in baselines) == 4
    names = {row["name"] for row in made["end_to_end"]}
    assert names == {made["best_baseline"], OWN_DENSE, *(f"LCCL {name}" for name in (OPEN, "0.25", "0.7"))}
    assert len(tables(made)) == 2


@pytest.mark.usefixtures("no_compiler")
def test_one_baseline_is_compiled_even_when_time_is_up_and_what_is_left_out_is_told(workload):
    contestants = list(gpu.start_baselines(workload, CPU, WallClock(), until=0))
    compiled = [each for each in contestants if each.name.startswith(COMPILED)]
    assert [each.absent for each in compiled] == [None, *["no time was left to compile it"] * 3]


def test_a_compiler_that_fails_is_told_and_the_others_count(workload, monkeypatch):
    def broken(module, frozen):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(gpu, "compiled", broken)
    contestants = list(gpu.start_baselines(workload, CPU, WallClock(), float("inf")))
    assert [each.name for each in contestants if each.absent is None] == ["eager fp16", "eager bf16"]
    assert {each.absent for each in contestants} == {None, "RuntimeError: no such thing"}


@pytest.mark.usefixtures("no_compiler")
def test_a_baseline_with_other_logits_is_absent(workload):
    wrong = replace(workload, logits=workload.logits | {DENSE: workload.logits[DENSE] + 1})
    contestants = list(gpu.start_baselines(wrong, CPU, WallClock(), float("inf")))
    assert all("its logits are off" in each.absent for each in contestants)


def test_wrong_answers_are_not_timed(workload):
    with pytest.raises(LcclError, match="own dense cannot be measured: its logits are off"):
        run(workload, replace(OPTIONS, baselines=False), NoStages(), replace(GPU, make=WrongNetwork))
