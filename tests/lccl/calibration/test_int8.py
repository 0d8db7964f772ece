"""A bundle is quantised on held-out images that choose, and what it loses is from those that measure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lccl.bundle.model_card import write_card
from lccl.calibration.int8 import quantise_bundle
from lccl.compiler import compile_network
from lccl.errors import DataError, EngineError
from lccl.measurement import exact_setting, measure
from lccl.networks import Architecture


@pytest.fixture(scope="module", params=["shared", "none"])
def bundle(request, random_bundle):
    return replace(random_bundle(Architecture("resnet20", gate=request.param, classes=3)), splits={"digest": "toy"})


@pytest.fixture(scope="module")
def quantised(bundle, toy_data):
    return quantise_bundle(bundle, toy_data(), "reference", weighed=4)


def test_losses_are_paired_over_the_measuring_part(bundle, quantised, toy_data):
    engines = [compile_network(quantised, precision=precision, engine="reference") for precision in ("fp32", "int8")]
    before, after = (measure(engine, toy_data().measure, exact_setting(engine)) for engine in engines)
    loss = quantised.int8.losses["exact"]
    assert loss.accuracy == (before.accuracy, after.accuracy)
    assert loss.drop == pytest.approx(100 * (before.accuracy - after.accuracy))
    assert loss.interval.low <= loss.drop <= loss.interval.high
    assert loss.images == 24
    assert quantised.table == bundle.table


def test_a_network_without_gates_has_its_points_at_once(bundle, quantised, toy_data, tmp_path):
    table = quantised.int8.table
    assert (table is None) == bool(bundle.network.skip_convs)
    if table is not None:
        engine = compile_network(quantised, precision="int8", engine="reference")
        right = [measure(engine, part, exact_setting(engine)).right for part in (toy_data().measure, toy_data().choose)]
        assert table.exact.accuracy == pytest.approx(np.concatenate(right).mean())
        assert compile_network(quantised.in_precision("int8"), precision="int8", engine="reference").precision == "int8"
    write_card(quantised, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "What int8 loses" in card
    assert ("Points measured in int8, on 24 images" in card) == (table is not None)


def test_other_data_and_engines_are_refused(bundle, toy_data):
    with pytest.raises(DataError, match="not the data that the bundle was trained on"):
        quantise_bundle(bundle, replace(toy_data(), digest="other"))
    with pytest.raises(EngineError, match="int8 runs on the engines auto, cpu, reference, not on 'cuda'"):
        quantise_bundle(bundle, toy_data(), "cuda")


def test_scales_are_judged_by_other_images_than_they_were_made_for(bundle, toy_data, monkeypatch):
    seen = {}

    def choose(_plan, ranged, judged, *_):
        seen.update(ranged=ranged, judged=judged)
        raise InterruptedError

    monkeypatch.setattr("lccl.calibration.int8.choose_quantisation", choose)
    with pytest.raises(InterruptedError):
        quantise_bundle(bundle, toy_data(), "reference")
    assert len(seen["ranged"]) + len(seen["judged"]) == len(toy_data().choose)
    assert min(map(len, seen.values())) == len(toy_data().choose) // 2


def test_losses_at_settings_that_are_no_longer_there_go(quantised, make_table):
    if quantised.network.skip_convs:
        table = make_table(len(quantised.network.skip_convs))
        assert quantised.with_points("fp32", table, {}).int8.losses == {}
