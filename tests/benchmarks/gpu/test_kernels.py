"""The layers that kernels are measured on, and all of a measurement on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.gpu import kernels
from benchmarks.gpu.kernels import Bench, Layer, layers_of
from lccl.networks import Architecture
from lccl.networks.lowering import network_shape

HOME = Path(__file__).parents[3]
CPU = torch.device("cpu")


@pytest.mark.parametrize(("network", "shapes"), [("resnet18", 7), ("wrn-28-10", 6)])
def test_the_layers_of_a_network_are_its_distinct_gated_convolutions(network, shapes):
    layers = layers_of(network)
    assert len(layers) == len(set(layers)) == shapes
    assert {layer.kernel for layer in layers} == {3}
    for layer in layers:
        _, _, height, width = layer.images(1)
        assert (height, width) == (layer.stride * layer.height, layer.stride * layer.width)
        assert layer.macs == layer.height * layer.width * int(np.prod(layer.weight))


def test_layers_macs_are_those_that_the_network_counts():
    shape = network_shape(Architecture("resnet20"), 32)
    counted = {layer.convolution.macs for layer in shape.layers}
    assert {layer.macs for layer in layers_of("resnet20")} == counted


def test_cudnn_is_given_the_shapes_of_the_layer():
    layer = next(layer for layer in layers_of("resnet20") if layer.stride == 2)
    small = kernels.convolutions(layer, 2, CPU)
    assert set(small) == {"cudnn fp16", "cudnn bf16"}
    assert small["cudnn bf16"]().shape == (2, layer.out_channels, layer.height, layer.width)


class ToldClock:
    """Takes the seconds that a launch returns; 0.01 of one that returns none."""

    def graph(self, launch):
        return launch

    def seconds(self, launches, repeats):
        told = [launch() for launch in launches]
        return np.array([[each if isinstance(each, float) else 0.01 for each in told]] * repeats)


class StandInLayer:
    """Own kernels whose time is that of the cells they keep."""

    def __init__(self, layer, batch, skip):
        self.kept = 1 - skip
        self.convolution = lambda: self.kept * 0.02
        self.gate = lambda: 0.001


def test_kernels_are_measured_in_three_parts_each_kept_as_it_comes():
    layer = Layer("toy", 4, 8, 3, 1, 4, 4, 4 * 4 * 8 * 9 * 4)
    kept = []
    bench = Bench(2, StandInLayer, ToldClock(), CPU, rounds=3, runs=2)
    measured = kernels.measure([layer], bench, lambda figures: kept.append(json.dumps(figures)))
    assert len(kept) == 3
    assert json.loads(kept[-1]) == json.loads(json.dumps(measured))
    all_rows = measured["all_rows"][0]
    assert all_rows["best_baseline"] in ("cudnn fp16", "cudnn bf16")
    assert all_rows["rate_against_cudnn"] == pytest.approx(0.5)
    rates = measured["random_rows"][0]["rate_kept"]
    assert rates == {f"{skip:g}": pytest.approx(1) for skip in kernels.SKIP}
    assert measured["gate"][0]["one"]["median_ms"] == pytest.approx(1)
    assert measured["gate"][0]["each_us"] == pytest.approx(0.01 / kernels.IN_ONE_GRAPH * 1e6)
    out = StringIO()
    kernels.show(measured, Console(file=out, width=150))
    assert "toy 4→8 4²" in out.getvalue()


INTERPRETED = """
import json, torch
from dataclasses import replace
from triton.runtime.interpreter import interpreter_builder
from benchmarks.gpu import kernels, layers
from lccl.bench.turns import WallClock
from lccl.engines.cuda.tiles import Tiles
interpreter_builder.options = replace(interpreter_builder.options, sanitize_overflow=False)  # half the time
kernels.IN_ONE_GRAPH = 2
device = torch.device("cpu")
make = layers.layers_on(device, "fp16", Tiles("defaults", {}))
layer = kernels.Layer("toy", 16, 32, 3, 2, 4, 4, 4 * 4 * 32 * 9 * 16)
made = kernels.measure([layer], kernels.Bench(2, make, WallClock(), device, 1, 1), lambda figures: None)
print(json.dumps([made, make(layer, 2, 0.5).kept, make(layer, 2, 0.0).kept]))
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_own_kernels_of_a_layer_are_measured_by_tritons_interpreter_too():
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env={**os.environ, "TRITON_INTERPRET": "1"}, cwd=HOME,
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made, half, whole = json.loads(done.stdout)
    assert set(made["all_rows"][0]["contestants"]) == {"own", "cudnn fp16", "cudnn bf16"}
    assert 0.2 < half < 0.8
    assert whole == 1
