"""Contestants on the CPU, each in a process, and whole benchmarks of them."""

from dataclasses import replace
from functools import partial

import pytest

from lccl.bench.cpu import Child, build_baseline
from lccl.bench.run import Options, run
from lccl.bench.turns import AbsentError
from lccl.bench.workload import DENSE, FLOAT, OPEN, OWN_DENSE
from lccl.plan.geometry import shape_of
from lccl.provenance import machine
from tests.lccl.bench.conftest import NoStages


@pytest.fixture
def started():
    """``started(workload, baseline)``: a child that ends with the test."""
    children = []

    def start(workload, which, precision="fp32"):
        children.append(Child(partial(build_baseline, workload, which, 1, precision)))
        return children[-1]

    yield start
    for child in children:
        child.close()


def test_a_baseline_in_a_child_checks_its_logits_and_answers(workload, started):
    child = started(workload, "torch eager")
    assert (child.time(DENSE, 2) > 0).all()
    assert child.time(DENSE, 2).shape == (2, 4)
    with pytest.raises(AbsentError, match="count"):
        child.count(DENSE)


def test_a_baseline_with_other_logits_is_absent(workload, started):
    with pytest.raises(AbsentError, match="its logits are off by"):
        started(replace(workload, logits={FLOAT: workload.logits[FLOAT] + 1}), "torch eager")


NCNN = ["ncnn", "pnnx"]


@pytest.mark.parametrize(
    ("name", "packages"),
    [("ONNX Runtime", ["onnx", "onnxruntime"]), ("OpenVINO", ["onnx", "openvino"]), ("ncnn", NCNN)],
)
def test_other_runtimes_agree_with_the_twin(workload, started, name, packages):
    needs(packages)
    assert (started(workload, name).time(DENSE, 1) > 0).all()


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("ONNX Runtime int8", ["onnx", "onnxruntime"]),
        ("OpenVINO int8", ["onnx", "openvino", "nncf"]),
        ("OpenVINO fp32", ["onnx", "openvino"]),
        ("ncnn int8", NCNN),
        ("ncnn int8 Winograd", NCNN),
    ],
)
def test_beside_int8_others_are_quantised_and_agree_with_the_float_twin(int8_workload, started, name, packages):
    needs(packages)
    assert (started(int8_workload, name, "int8").time(DENSE, 1) > 0).all()


def test_ncnn_in_bf16_agrees_or_says_that_the_processor_has_none(int8_workload, started):
    needs(NCNN)
    if "avx512_bf16" in machine()["flags"]:
        assert (started(int8_workload, "ncnn bf16", "int8").time(DENSE, 1) > 0).all()
    else:
        with pytest.raises(AbsentError, match="no bf16"):
            started(int8_workload, "ncnn bf16", "int8")


def needs(packages):
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is of the extra bench", exc_type=ImportError)


def test_a_whole_benchmark_in_int8(int8_workload):
    made = run(int8_workload, Options(1, "int8", rounds=1, baselines=False), NoStages())
    assert made["precision"] == "int8"
    assert made["settings"][1]["skip_reached"] == pytest.approx(0.5, abs=0.05)
    counted = int8_workload.settings[1].kept.mean(0)
    assert made["settings"][1]["gated_macs"] == pytest.approx(
        shape_of(int8_workload.plan).gated(counted[None].astype(int))[0], rel=0.01
    )


def test_a_whole_benchmark_of_an_own_engine(workload):
    stages = NoStages()
    options = Options(1, rounds=1, baselines=False, layers=False)
    made = run(replace(workload, settings=workload.settings[::2]), options, stages)
    assert all(done == turns for done, turns in stages.begun.values())
    assert (made["best_baseline"], made["best_dense"]) == (None, OWN_DENSE)
    assert [row["name"] for row in made["settings"]] == [OPEN, "0.7"]
    assert made["settings"][1]["skip_reached"] == pytest.approx(0.7, abs=0.05)
    assert made["settings"][0]["gated_macs"] == made["dense_macs"] + made["gate_macs"]
    assert all(row["gated_macs"] <= row["executed_macs"] < 1.01 * row["gated_macs"] for row in made["settings"])
    assert "layers" not in made


def test_a_whole_benchmark_of_a_network_with_early_exits(early_workload):
    made = run(early_workload, Options(1, rounds=1, baselines=False), NoStages())
    shape = shape_of(early_workload.plan)
    assert made["settings"][0]["left_early"] == 0
    assert made["settings"][0]["gated_macs"] == shape.dense + shape.gates + sum(early.macs for early in shape.exits)
    assert 0 < made["settings"][1]["left_early"] < made["settings"][2]["left_early"] < 1
    for row, setting in zip(made["settings"], early_workload.settings, strict=True):
        assert row["skip_reached"] == pytest.approx(shape.skip_ratio(setting.kept).mean(), abs=0.01)
        assert row["gated_macs"] <= row["executed_macs"] < 1.01 * row["gated_macs"]
    assert [row["step"] for row in made["layers"] if row["dense_ms"] is None] == [
        "AveragePool sidenets.0", "Exit 0", "AveragePool sidenets.1", "Exit 1"
    ]  # fmt: skip


def test_a_baseline_runs_the_twin_of_a_network_with_early_exits(early_workload, started):
    assert (started(early_workload, "torch eager").time(DENSE, 1) > 0).all()
