"""An engine is chosen once, by name, from a bundle or a network; what is not to be had is refused, never replaced."""

import json
import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lccl.compiler import compile_network, cpu_offers
from lccl.engines.cuda import devices
from lccl.errors import EngineError
from lccl.networks import Architecture, build
from lccl.preprocessing import Preprocessing
from tests.lccl.int8_plans import with_int8
from tests.lccl.settings import uniform


@pytest.mark.parametrize("engine", ["native", "triton", "Reference", ""])
def test_an_unknown_engine_is_refused(bundle, engine):
    with pytest.raises(EngineError, match="unknown engine"):
        compile_network(bundle, engine=engine)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:-1", "cuda:99", "mps", "meta", ""])
def test_an_unknown_or_absent_device_is_refused(bundle, device):
    with pytest.raises(EngineError):
        compile_network(bundle, device=device)


@pytest.mark.parametrize(
    ("engine", "precision"),
    [
        ("auto", "fp16"),
        ("auto", "double"),
        ("cpu", "fp64"),
        ("cpu", "fp16"),
        ("reference", "bf16"),
        ("reference", "fp16"),
    ],
)
def test_a_precision_that_the_engine_lacks_is_refused(bundle, engine, precision):
    with pytest.raises(EngineError, match=precision):
        compile_network(bundle, precision=precision, engine=engine)


@pytest.mark.parametrize(
    ("engine", "precision", "name", "runs"),
    [
        ("auto", "auto", "cpu", "fp32"),
        ("auto", "fp32", "cpu", "fp32"),
        ("cpu", "auto", "cpu", "fp32"),
        ("auto", "fp64", "reference", "fp64"),
        ("reference", "auto", "reference", "fp32"),
        ("reference", "fp32", "reference", "fp32"),
    ],
)
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_bundle_runs_with_its_own_preprocessing(bundle, device, engine, precision, name, runs, draw_images):
    made = compile_network(bundle, device, precision, engine)
    options = uniform(2, [0.0] * 18)
    given = compile_network(bundle.network, precision=precision, engine=engine, preprocessing=bundle.preprocessing)
    assert (made.name, made.precision, made.experimental) == (name, runs, False)
    assert np.array_equal(made.run(draw_images(2), options).logits, given.run(draw_images(2), options).logits)


def test_auto_is_int8_on_the_cpu_engine_where_it_was_measured(bundle, make_table):
    quantised = with_int8(bundle)
    measured = with_int8(bundle, make_table(18, (0.1, 0.4)))
    assert compile_network(quantised).precision == "fp32"
    made = compile_network(measured)
    assert (made.name, made.precision) == ("cpu", "int8" if cpu_offers("int8") else "fp32")
    assert compile_network(measured, engine="reference").precision == "fp32"
    assert compile_network(measured, precision="fp32").precision == "fp32"


def test_auto_is_not_int8_where_only_fp32_has_instructions(bundle, make_table, monkeypatch):
    measured = with_int8(bundle, make_table(18, (0.1, 0.4)))
    sets = [("neon", "fp32"), ("portable", "fp32"), ("portable", "int8")]
    monkeypatch.setattr("lccl.engines.cpu.engine.instruction_sets", lambda: sets)
    assert compile_network(measured).precision == "fp32"
    assert compile_network(measured, instruction_set="portable").precision == "int8"
    monkeypatch.setattr("lccl.engines.cpu.engine.instruction_sets", lambda: sets[1:])
    assert compile_network(measured).precision == "int8"


@pytest.mark.parametrize("table", [False, True])
def test_int8_asked_for_is_what_runs(bundle, make_table, table, draw_images):
    quantised = with_int8(bundle, make_table(18, (0.1, 0.4)) if table else None)
    options = uniform(2, [0.0] * 18)
    made = [compile_network(quantised, precision="int8", engine=engine) for engine in ("auto", "reference")]
    assert [engine.precision for engine in made] == ["int8", "int8"]
    first, second = (engine.run(draw_images(2), options) for engine in made)
    np.testing.assert_array_equal(first.logits, second.logits)
    np.testing.assert_array_equal(first.kept, second.kept)


@pytest.mark.parametrize("gate", ["none", "shared"])
def test_split_convolutions_run_on_the_reference_engine_alone(gate, random_bundle):
    bundle = random_bundle(Architecture("resnet20", gate=gate, split="1/2"))
    assert compile_network(bundle).name == "reference"
    with pytest.raises(EngineError, match="does not run split convolutions: use engine reference"):
        compile_network(bundle, engine="cpu")
    with pytest.raises(EngineError, match="no precision 'bf16': use fp32, fp64 or int8"):
        compile_network(bundle, precision="bf16")


def test_threads_and_instruction_set_reach_the_cpu_engine(bundle):
    made = compile_network(bundle, threads=3, instruction_set="portable")
    assert (made.threads, made.instruction_set) == (3, "portable")
    with pytest.raises(EngineError, match="no instruction set 'sse9'"):
        compile_network(bundle, instruction_set="sse9")


def test_other_engines_have_no_instruction_sets(bundle, gpus):
    gpus("Model A")
    for asked in ({"engine": "reference"}, {"engine": "cuda"}, {"precision": "fp64"}):
        with pytest.raises(EngineError, match="has no instruction sets: use auto, or engine cpu for avx2"):
            compile_network(bundle, instruction_set="avx2", **asked)


def test_a_bundle_with_another_preprocessing_is_refused(bundle):
    with pytest.raises(EngineError, match="a bundle has its own preprocessing: leave preprocessing out"):
        compile_network(bundle, preprocessing=Preprocessing(32, 32, (0.5,) * 3, (0.5,) * 3))


def test_the_cpu_engine_is_refused_on_another_device(bundle, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(EngineError, match="does not run on cuda"):
        compile_network(bundle, "cuda", engine="cpu")


def test_an_engine_that_was_not_built_is_named(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "lccl.engines.cpu.engine", None)
    with pytest.raises(EngineError, match="not built here"):
        compile_network(bundle)


def test_a_bare_network_gets_its_own_size_and_half_a_mean_and_deviation():
    engine = compile_network(build(Architecture("resnet18", classes=10)).eval())
    assert (engine.plan.image.height, engine.plan.image.width) == (224, 224)
    assert engine.plan.steps[0].mean.tolist() == engine.plan.steps[0].std.tolist() == [0.5] * 3


def test_a_bare_network_takes_the_preprocessing_given():
    chosen = Preprocessing(48, 50, (0.25, 0.5, 0.75), (1, 2, 4))
    engine = compile_network(build(Architecture("resnet20")).eval(), preprocessing=chosen)
    assert engine.plan.image.height == 48
    assert engine.plan.steps[0].mean.tolist() == [0.25, 0.5, 0.75]
    assert engine.plan.steps[0].std.tolist() == [1, 2, 4]


class StandInEngine:
    """Stands in for the cuda engine, which needs a GPU: keeps what it was made of."""

    name = "cuda"
    tiles = SimpleNamespace(source="a stand-in")

    def __init__(self, plan, device, precision):
        self.plan, self.device, self.precision = plan, device, precision
        self.experimental = devices.experimental(device)


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """Stands in for torch's sight of GPUs: ``gpus("A", "B", proven="B")``; the cuda engine is a stand-in too."""
    monkeypatch.setitem(sys.modules, "lccl.engines.cuda.engine", SimpleNamespace(CudaEngine=StandInEngine))
    monkeypatch.setattr(devices, "PROVEN", tmp_path)

    def see(*models, proven=""):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(models))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: models[getattr(device, "index", device)])
        record = {"device": proven, "passed": 1, "failed": 0, "errors": 0}
        (tmp_path / f"{devices.slug(proven)}.json").write_text(json.dumps(record))

    return see


def chosen(*arguments, **named):
    made = compile_network(*arguments, **named)
    place = getattr(made, "device", None) or getattr(made, "_device", torch.device("cpu"))
    return made.name, str(place), made.precision


class TestAProvenGpu:
    @pytest.fixture(autouse=True)
    def _see(self, gpus):
        gpus("Model A", "Model B", proven="Model B")

    @pytest.mark.parametrize(("precision", "runs"), [("auto", "fp16"), ("fp16", "fp16"), ("bf16", "bf16")])
    def test_is_taken_where_the_device_is_not_named(self, bundle, precision, runs):
        assert chosen(bundle, precision=precision) == ("cuda", "cuda:1", runs)

    @pytest.mark.parametrize(
        ("asked", "taken"),
        [
            ({"precision": "fp32"}, ("cpu", "cpu", "fp32")),
            ({"precision": "fp64"}, ("reference", "cpu", "fp64")),
            ({"engine": "cpu"}, ("cpu", "cpu", "fp32")),
            ({"engine": "reference"}, ("reference", "cpu", "fp32")),
            ({"device": "cpu"}, ("cpu", "cpu", "fp32")),
        ],
    )
    def test_is_not_taken_for_what_the_cuda_engine_does_not_do(self, bundle, asked, taken):
        assert chosen(bundle, **asked) == taken

    def test_is_not_taken_for_split_convolutions(self, random_bundle):
        assert chosen(random_bundle(Architecture("resnet20", split="1/2"))) == ("reference", "cpu", "fp32")

    def test_is_not_called_experimental(self, bundle, caplog):
        assert not compile_network(bundle).experimental
        assert not caplog.records


class TestAGpuOfAnUnprovenModel:
    @pytest.fixture(autouse=True)
    def _see(self, gpus):
        gpus("Model A", "Model B")

    def test_is_not_taken_where_neither_device_nor_engine_is_named(self, bundle):
        assert chosen(bundle) == ("cpu", "cpu", "fp32")

    @pytest.mark.parametrize(
        ("asked", "taken"),
        [
            ({"engine": "cuda"}, ("cuda", "cuda:0", "fp16")),
            ({"engine": "cuda", "precision": "bf16"}, ("cuda", "cuda:0", "bf16")),
            ({"device": "cuda"}, ("cuda", "cuda:0", "fp16")),
            ({"device": "cuda:1"}, ("cuda", "cuda:1", "fp16")),
            ({"device": "cuda:1", "engine": "cuda"}, ("cuda", "cuda:1", "fp16")),
            ({"device": "cuda", "precision": "fp32"}, ("reference", "cuda:0", "fp32")),
            ({"device": "cuda:1", "precision": "fp64"}, ("reference", "cuda:1", "fp64")),
            ({"device": "cuda", "engine": "reference"}, ("reference", "cuda:0", "fp32")),
        ],
    )
    def test_is_taken_where_device_or_engine_is_named(self, bundle, asked, taken):
        assert chosen(bundle, **asked) == taken

    def test_its_tiles_are_told_of_in_the_log(self, bundle, caplog):
        with caplog.at_level(logging.INFO, "lccl.engines.cuda"):
            compile_network(bundle, "cuda")
        assert caplog.messages[0] == "the cuda engine works by tiles from: a stand-in"

    def test_is_called_experimental_in_one_line_of_the_log(self, bundle, caplog):
        assert compile_network(bundle, "cuda:1").experimental
        (line,) = caplog.records
        assert (line.name, line.levelno) == ("lccl.engines.cuda", logging.WARNING)
        assert line.getMessage().startswith(
            "the cuda engine is experimental on Model B: its tests have not been run there"
        )

    @pytest.mark.parametrize(
        ("asked", "says"),
        [
            ({"engine": "cuda", "precision": "fp32"}, "no precision 'fp32': use fp16 or bf16, or engine reference"),
            ({"engine": "cuda", "precision": "fp64"}, "no precision 'fp64'"),
            ({"engine": "cuda", "device": "cpu"}, "does not run on cpu: use device cuda or engine cpu"),
            ({"engine": "cpu", "device": "cuda"}, "does not run on cuda:0: use device cpu or engine reference"),
            ({"device": "cuda", "precision": "int8"}, "int8 does not run on cuda"),
            ({"device": "cuda:2"}, "no cuda:2 here, torch sees 2 GPUs"),
        ],
    )
    def test_nothing_is_run_otherwise_than_asked(self, bundle, asked, says):
        with pytest.raises(EngineError, match=says):
            compile_network(bundle, **asked)

    @pytest.mark.parametrize("asked", [{"device": "cuda"}, {"engine": "cuda"}])
    def test_refuses_split_convolutions(self, random_bundle, asked):
        with pytest.raises(EngineError, match="the cuda engine does not run split convolutions: use engine reference"):
            compile_network(random_bundle(Architecture("resnet20", split="1/2")), **asked)

    def test_without_what_the_engine_needs_is_an_error_that_says_what_to_install(self, bundle, monkeypatch):
        monkeypatch.setitem(sys.modules, "lccl.engines.cuda.engine", None)
        with pytest.raises(EngineError, match="install a CUDA build of torch"):
            compile_network(bundle, "cuda")


def test_the_cuda_engine_without_a_gpu_is_refused(bundle, gpus):
    gpus()
    for asked in ({"engine": "cuda"}, {"device": "cuda"}):
        with pytest.raises(EngineError, match="torch sees 0 GPUs: use device cpu, or a CUDA build of torch"):
            compile_network(bundle, **asked)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_agrees_with_the_cpu(bundle, draw_images):
    options = uniform(4, [0.0] * 18)
    logits = [compile_network(bundle, device, "fp64").run(draw_images(4), options).logits for device in ("cpu", "cuda")]
    np.testing.assert_allclose(*logits, rtol=1e-9, atol=1e-9)
