"""An engine is chosen once, by name, from a bundle or a network; what is not to be had is refused, never replaced."""

import sys

import numpy as np
import pytest
import torch

from lccl.compiler import compile as make_engine
from lccl.controls import Controls
from lccl.errors import EngineError
from lccl.networks import Architecture, build
from lccl.preprocessing import Preprocessing


@pytest.mark.parametrize("engine", ["native", "cuda", "triton", "Reference", ""])
def test_an_unknown_engine_is_refused(bundle, engine):
    with pytest.raises(EngineError, match="unknown engine"):
        make_engine(bundle, engine=engine)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:-1", "cuda:99", "mps", "meta", ""])
def test_an_unknown_or_absent_device_is_refused(bundle, device):
    with pytest.raises(EngineError):
        make_engine(bundle, device=device)


@pytest.mark.parametrize(
    ("engine", "precision"),
    [("auto", "fp16"), ("auto", "double"), ("cpu", "fp64"), ("reference", "bf16"), ("reference", "fp16")],
)
def test_a_precision_that_the_engine_lacks_is_refused(bundle, engine, precision):
    with pytest.raises(EngineError, match=precision):
        make_engine(bundle, precision=precision, engine=engine)


@pytest.mark.parametrize(
    ("engine", "precision", "name"),
    [
        ("auto", "fp32", "cpu"),
        ("cpu", "fp32", "cpu"),
        ("auto", "fp64", "reference"),
        ("reference", "fp32", "reference"),
    ],
)
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_bundle_runs_with_its_own_preprocessing(bundle, device, engine, precision, name, pictures):
    made = make_engine(bundle, device, precision, engine)
    controls = Controls.uniform(2, [0.0] * 18)
    given = make_engine(bundle.network, precision=precision, engine=engine, preprocessing=bundle.preprocessing)
    assert (made.name, made.precision) == (name, precision)
    assert np.array_equal(made.run(pictures(2), controls).logits, given.run(pictures(2), controls).logits)


@pytest.mark.parametrize("gate", ["none", "shared"])
def test_split_convolutions_run_on_the_reference_engine_alone(gate, random_bundle):
    bundle = random_bundle(Architecture("resnet20", gate=gate, split="1/2"))
    assert make_engine(bundle).name == "reference"
    with pytest.raises(EngineError, match="does not run split convolutions: use engine reference"):
        make_engine(bundle, engine="cpu")
    with pytest.raises(EngineError, match="no precision 'bf16': use fp32 or fp64"):
        make_engine(bundle, precision="bf16")


def test_threads_and_instruction_set_reach_the_cpu_engine(bundle):
    made = make_engine(bundle, threads=3, instruction_set="portable")
    assert (made.threads, made.instruction_set) == (3, "portable")
    with pytest.raises(EngineError, match="no instruction set 'sse9'"):
        make_engine(bundle, instruction_set="sse9")


def test_the_cpu_engine_is_refused_on_another_device(bundle, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(EngineError, match="does not run on cuda"):
        make_engine(bundle, "cuda", engine="cpu")


def test_an_engine_that_was_not_built_is_named(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "lccl.engines.cpu.engine", None)
    with pytest.raises(EngineError, match="not built here"):
        make_engine(bundle)


def test_a_bare_network_gets_its_own_size_and_half_a_mean_and_deviation():
    engine = make_engine(build(Architecture("resnet18", classes=10)).eval())
    assert (engine.plan.image.height, engine.plan.image.width) == (224, 224)
    assert engine.plan.steps[0].mean.tolist() == engine.plan.steps[0].std.tolist() == [0.5] * 3


def test_a_bare_network_takes_the_preprocessing_given():
    chosen = Preprocessing(48, 50, (0.25, 0.5, 0.75), (1, 2, 4))
    engine = make_engine(build(Architecture("resnet20")).eval(), preprocessing=chosen)
    assert engine.plan.image.height == 48
    assert engine.plan.steps[0].mean.tolist() == [0.25, 0.5, 0.75]
    assert engine.plan.steps[0].std.tolist() == [1, 2, 4]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_agrees_with_the_cpu(bundle, pictures):
    controls = Controls.uniform(4, [0.0] * 18)
    logits = [make_engine(bundle, device, "fp64").run(pictures(4), controls).logits for device in ("cpu", "cuda")]
    np.testing.assert_allclose(*logits, rtol=1e-9, atol=1e-9)
