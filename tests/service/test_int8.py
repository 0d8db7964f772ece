"""A model with int8 is served in it: its metadata, metrics and answers say so and state what int8 was measured at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lccl.bundle.format import load, save
from lccl.bundle.self_test import record
from lccl.compiler import compile_network, cpu_offers
from lccl.plan.run import RunOptions
from tests.conftest import make_table, random_bundle
from tests.lccl.int8_plans import with_int8

PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    bundle = with_int8(random_bundle(), make_table(18, (0.05, 0.35, 0.5)))
    own = record(bundle.in_precision("int8"), compile_network(bundle, precision="int8", engine="reference"))
    save(replace(bundle, int8=replace(bundle.int8, self_test=own)), folder / "small")
    return folder


@pytest.fixture
def client(serve, folder):
    with serve(models=folder, engine="reference", precision="int8") as client:
        yield client


def test_metadata_metrics_and_answers_name_it(client, draw_image):
    model = client.get("/v1/models/small").json()
    config = client.get("/v2/models/small/config").json()
    assert (model["precision"], config["parameters"]["precision"]) == ("int8", {"string_value": "int8"})
    assert [point["name"] for point in model["operating_points"]] == ["exact", "p35", "p50"]
    answer = client.post("/v1/classify", content=draw_image(), headers=PNG, params={"sparsity": 0.4}).json()
    assert answer["precision"] == "int8"
    assert answer["operating_point"]["sparsity"] == pytest.approx(0.4)
    pixels = {"name": "pixels", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": [0] * 3072}
    answer = client.post("/v2/models/small/infer", json={"inputs": [pixels]}).json()
    assert answer["parameters"]["precision"] == "int8"
    assert 'engine="reference",model="small",precision="int8"' in client.get("/metrics").text


def test_answers_are_those_of_int8(client, folder):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    tensor = {"name": "pixels", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": pixels.ravel().tolist()}
    answer = client.post("/v2/models/small/infer", json={"inputs": [tensor]}).json()
    logits = next(output["data"] for output in answer["outputs"] if output["name"] == "logits")
    model = client.app.state.registry.find("small")
    engine = compile_network(load(folder / "small"), precision="int8", engine="reference")
    expected = engine.run(pixels, RunOptions.of([model.bundle.table.exact.setting])).logits
    np.testing.assert_array_equal(np.array(logits, np.float32), expected[0])


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_without_int8_arithmetic_the_points_are_those_of_fp32(serve, folder, precision):
    with serve(models=folder, precision=precision) as client:
        model = client.get("/v1/models/small").json()
    int8 = precision == "auto" and cpu_offers("int8")
    assert model["precision"] == ("int8" if int8 else "fp32")
    names = ["exact", "p35", "p50"] if int8 else ["exact", "p25", "p40", "p60"]
    assert [point["name"] for point in model["operating_points"]] == names


def test_a_model_without_points_in_int8_is_not_served_in_it(start, folder, tmp_path):
    bundle = load(folder / "small")
    save(replace(bundle, int8=replace(bundle.int8, table=None)), tmp_path / "small")
    said = start("--models", str(tmp_path), "--engine", "reference", "--precision", "int8")
    assert "no operating points measured in int8: run lccl calibrate --precision int8" in said


def test_a_wrong_self_test_in_int8_is_refused(start, folder, tmp_path):
    bundle = load(folder / "small")
    logits = {"exact": [[1.001 * value for value in row] for row in bundle.int8.self_test["logits"]["exact"]]}
    wrong = replace(bundle.int8, self_test=dict(bundle.int8.self_test) | {"logits": logits})
    save(replace(bundle, int8=wrong), tmp_path / "small")
    said = start("--models", str(tmp_path), "--engine", "reference", "--precision", "int8")
    assert "the self-test's logits at exact differ by 0.001" in said
