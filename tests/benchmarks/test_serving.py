"""The serving benchmark's own arithmetic, and the processes it starts."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import lccl as library
from benchmarks.models import LOSS, sparsest_as_good
from benchmarks.serving import processes, report, tune, twins
from benchmarks.serving.measure import Contestant, Loaded, engine_ms, read_answer
from benchmarks.serving.servers import Setup, differs, key_of
from benchmarks.serving.tune import PEERS, Tried
from benchmarks.serving.workload import SHIPPED, at_point
from lccl.bench.images import noise_images
from lccl.bench.twins import FromPixels
from lccl.bench.workload import plain_twin
from lccl.bundle import format as bundles
from lccl.data.splits import Split
from lccl_client.load import Body

SETUP = Setup("openvino", workers=2)
VARIANTS = (("openvino", "int8"), ("onnxruntime", "int8"), ("openvino", "fp32"))
OWN_ENGINE = (tune.NATIVE, "fp32")


def loaded(answers_per_s: float) -> Loaded:
    return Loaded(answers_per_s, 1.0, 2.0, 9.0, 1.0, 0.1, 0.0, None)


def rounds(*pairs: tuple[float, float]) -> list[tuple[Loaded, Loaded]]:
    return [(loaded(closed), loaded(opened)) for closed, opened in pairs]


def test_throughput_is_the_higher_of_both_loads_and_ratios_are_paired_by_round():
    saturated = {"own": rounds((10, 20), (60, 30), (90, 1)), "peer": rounds((10, 5), (20, 20), (30, 15))}
    assert report.highest(saturated["own"]) == [20, 60, 90]
    assert report.ratio(saturated, "own", "peer") == 3.0
    assert report.best(saturated, ["own", "peer"]) == "own"
    assert report.best(saturated, []) is None


def test_figures_name_the_best_peer_of_each_kind():
    kinds = {"a": "dense", "b": "dense", "a, engine": "native", "exact": "own", "half": "own", "mixed": "own"}
    rates = {"a": 10, "b": 20, "a, engine": 40, "exact": 30, "half": 60, "mixed": 54}
    saturated = {name: rounds((rate, 0)) for name, rate in rates.items()}
    contestants = [Contestant(name, kind, None, (), "int8", 0.9) for name, kind in kinds.items()]
    made = report.figures(contestants, {"a": SETUP}, {}, saturated, {"b": [loaded(14)]})
    assert made["ratios"]["dense"] == {"best_peer": "b", "exact": 1.5, "half": 3.0, "mixed": 2.7}
    assert made["ratios"]["native"]["best_peer"] == "a, engine"
    assert made["mixed_over_even"] == 0.9
    assert {(row["precision"], row["accuracy"]) for row in made["contestants"]} == {("int8", 0.9)}
    tails = {row["name"]: row["tail_p99_ms"] for row in made["contestants"]}
    assert tails == {**dict.fromkeys(rates), "b": 9.0}


def speed(tried: Tried) -> float:
    return tried.quiet_per_s


def test_tuning_tries_the_best_settings_with_every_runtime_and_keeps_each_ones_best_round():
    speeds = iter(range(1000))

    def attempt(peer: str, setup: Setup) -> Tried:
        return Tried("resnet20", peer, setup, 1.0, next(speeds))

    tried = tune.tune("resnet20", "FastAPI", attempt, 2, VARIANTS)
    first = [replace(setup, precision="int8") for setup in tune.candidates("FastAPI", "resnet20")]
    assert [one.setup for one in tried[: len(first)]] == first
    assert tried[0].quiet_per_s == len(first)
    fastest = {
        max((one for one in tried[: len(first)] if one.setup.workers == workers), key=speed) for workers in (1, 2)
    }
    finalists = {replace(one.setup, backend="any", precision="any") for one in tried[len(first) :]}
    assert finalists == {replace(one.setup, backend="any", precision="any") for one in fastest}
    assert variant(tune.choose(tried, "resnet20", "FastAPI", VARIANTS)) == ("openvino", "fp32")
    assert variant(tune.choose(tried, "resnet20", "FastAPI", VARIANTS[:2])) == ("onnxruntime", "int8")
    assert variant(tune.choose(tried, "resnet20", "FastAPI", [OWN_ENGINE])) == OWN_ENGINE
    assert tune.is_tuned(tried, "resnet20", "FastAPI", VARIANTS)
    assert not tune.is_tuned(tried, "resnet20", "FastAPI", [*VARIANTS, ("onnxruntime", "fp32")])
    with pytest.raises(LookupError, match="tune"):
        tune.choose(tried, "resnet18", "FastAPI", VARIANTS)


def variant(setup: Setup) -> tuple[str, str]:
    return setup.backend, setup.precision


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("network", ["resnet18", "resnet20"])
def test_candidates_differ(peer: str, network: str):
    found = tune.candidates(peer, network)
    assert len(set(found)) == len(found)
    assert {setup.workers for setup in found} == {1, 2}


def test_of_settings_as_fast_the_ones_that_wait_least_are_chosen():
    tried = [
        Tried("resnet20", "FastAPI", replace(SETUP, window_ms=window), 1.0, quiet)
        for window, quiet in ((5, 100.0), (2, 98.0), (0, 96.0))
    ]
    assert tune.choose(tried, "resnet20", "FastAPI", VARIANTS).window_ms == 2


def test_fresh_rows_replace_those_of_the_same_network_and_peer():
    old, other = Tried("resnet20", "FastAPI", SETUP, 1, 1), Tried("resnet18", "FastAPI", SETUP, 1, 1)
    fresh = Tried("resnet20", "FastAPI", SETUP, 2, 1)
    assert tune.merge([old, other], [fresh]) == [other, fresh]


def test_a_peer_is_held_against_the_expected_probabilities():
    expected = np.array([0.1, 0.6, 0.05, 0.25], dtype=np.float32)

    def shown(*classes: tuple[int, float]) -> list[dict[str, object]]:
        return [{"label": str(index), "index": index, "probability": value} for index, value in classes]

    assert differs(shown((1, 0.6), (3, 0.25)), expected, 0.002) == ""
    assert "is right" in differs(shown((1, 0.61), (3, 0.25)), expected, 0.002)
    assert differs(shown((1, 0.61), (3, 0.25)), expected, 0.05) == ""
    assert "not the best" in differs(shown((1, 0.6), (0, 0.1)), expected, 0.002)
    assert "not the best" in differs(shown((1, 0.6), (1, 0.6)), expected, 0.002)


def test_answers_of_all_servers_are_read():
    own = b'{"predictions": [{"skip_ratio": 0.5}], "timing_ms": {"compute": 3, "total": 4}}'
    assert (engine_ms(own), read_answer(Body(b""), own)) == ((3, 1), {"skip_ratio": 0.5})
    for peer in (b'{"classes": [], "compute_ms": 2}', b'[{"classes": [], "compute_ms": 2}]'):
        assert (engine_ms(peer), read_answer(Body(b""), peer)) == ((2, None), {})


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_orphans_stay_below_their_server_and_end_with_it():
    daemon = "import subprocess, sys; subprocess.Popen(['sleep', '100'], start_new_session=True)"
    server = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {daemon!r}]); time.sleep(100)"
    command = [sys.executable, str(Path(processes.__file__)), sys.executable, "-c", server]
    with subprocess.Popen(command) as process:
        try:
            # the server and its daemon, whose own starter is gone
            wait_for(lambda: len(processes.below(process.pid)) == 2 and any(map(sleeps, processes.below(process.pid))))
            started = processes.below(process.pid)
            assert processes.cpu_seconds(process.pid) > 0
            processes.signal_all(process.pid, signal.SIGSTOP)
            wait_for(lambda: {state_of(one) for one in started} == {"T"})
        finally:  # what stays stopped would never end
            processes.signal_all(process.pid, signal.SIGCONT)
            process.terminate()
    wait_for(lambda: not any(Path(f"/proc/{one}").exists() for one in started))


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def sleeps(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/comm").read_text() == "sleep\n"
    except OSError:
        return False


def state_of(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def test_the_sparsest_point_that_is_as_good_as_the_twin_is_asked_for():
    bundle = bundles.load(SHIPPED)
    found, least = sparsest_as_good(bundle), bundle.training.plain_twin.accuracy - LOSS
    table = bundle.in_precision(library.compile(bundle, engine="cpu").precision).table
    assert found.accuracy >= least
    assert all(point.accuracy < least for point in table.points if point.skip_ratio > found.skip_ratio)
    asked = at_point(found)
    assert list(asked) == ["LCCL exact", f"LCCL {found.name}", "LCCL mixed"]
    assert asked[f"LCCL {found.name}"] == [f"operating_point={found.name}"]
    ratios = [float(query.removeprefix("sparsity=")) for query in asked["LCCL mixed"]]
    assert sum(ratios) / 3 == pytest.approx(found.skip_ratio, abs=0.001)


def test_peers_that_decode_whole_are_held_against_answers_of_their_own():
    assert key_of(replace(SETUP, precision="int8")) == "openvino int8"
    whole = replace(SETUP, whole=True)
    assert key_of(whole) == "fp32 whole"
    assert str(whole).endswith("JPEGs decoded whole")


def test_every_variant_of_the_twin_is_written_and_answers_like_it_or_is_said_to_be_absent(tmp_path):
    pytest.importorskip("onnx", reason="of the bench extra")
    bundle = bundles.load(SHIPPED)
    twin, pixels = plain_twin(bundle.architecture, bundle.network), noise_images(8, 32).images
    labels = FromPixels(twin, bundle.preprocessing)(torch.from_numpy(pixels)).argmax(1).numpy()
    absent = twins.write(tmp_path, twin, bundle, pixels)
    found = twins.answer(tmp_path, twin, bundle, pixels, Split(pixels, labels))
    assert {*found, *absent} == {twins.key(*variant) for variant in twins.DENSE}
    assert found["fp32"].accuracy == 1
    for answers in found.values():
        assert answers.probabilities.sum(axis=1) == pytest.approx(1)
        assert answers.accuracy >= 0.5
