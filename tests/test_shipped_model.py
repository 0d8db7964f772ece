"""The shipped models: what their bundles state, their cards and the README's tables, and the statements over HTTP."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import lccl
from benchmarks.figures import PAGES, fill_tables
from lccl.plan.run import RunOptions
from tests.conftest import every_unseen_image, needs_unseen_images
from tests.served import served

HOME = Path(__file__).parents[1]
SMALL, LARGE = (HOME / "models" / name for name in ("resnet20-cifar10", "resnet18-imagenette"))
MOST_BYTES = 24_000_000


@pytest.fixture(scope="module")
def small():
    return lccl.load(SMALL)


@pytest.fixture(scope="module")
def large():
    return lccl.load(LARGE)


@pytest.fixture(scope="module", params=[SMALL, LARGE], ids=lambda folder: folder.name)
def shipped(request):
    return lccl.load(request.param)


@pytest.fixture
def folder(shipped):
    return LARGE if shipped.preprocessing.size > 64 else SMALL


@pytest.fixture(scope="module")
def client():
    with served() as base, httpx.Client(base_url=base, timeout=60) as client:
        yield client


def test_the_twin_on_record_had_the_same_budget(small):
    twin = small.training.plain_twin
    assert twin.recipe == small.training.recipe
    assert twin.epochs == small.training.total_epochs


def test_the_twin_of_the_model_for_photographs_is_here(large):
    twin = lccl.load(HOME / "benchmarks" / "twins" / LARGE.name)
    assert twin.digest == large.training.plain_twin.digest
    assert twin.splits["digest"] == large.splits["digest"]


def test_the_table_offers_a_real_choice(shipped):
    table = shipped.table
    low, high = table.sparsity_range
    assert low <= 0.3
    assert high >= 0.6
    assert table.images == shipped.splits["measure"]
    accuracies = [point.accuracy for point in table.points]
    assert accuracies[0] - accuracies[-1] > 0.02
    assert all(later < earlier + 0.01 for earlier, later in pairwise(accuracies))


def test_the_weights_take_little_space(folder):
    assert sum(file.stat().st_size for file in folder.glob("model.safetensors")) <= MOST_BYTES


def test_the_card_is_the_bundles(shipped, folder, tmp_path):
    from lccl.bundle.model_card import CARD, write_card

    written = tmp_path / folder.name
    written.mkdir()
    write_card(shipped, written)
    assert (written / CARD).read_text() == (folder / CARD).read_text()


def test_photographs_are_what_is_asked_about_by_default(client):
    assert client.get("/v1/models").json()["default"] == LARGE.name


def test_the_answers_shown_are_the_shipped_models(client):
    """README's answer and the playground page's skip map, but for what differs between two runs."""
    answer, skip_map = json_in("README.md", '"predictions"'), json_in("docs/playground.md", '"mask"')
    (layer,) = (one for one in skip_map["layers"] if isinstance(one, dict))
    image = {"content": (HOME / "docs" / "example.png").read_bytes(), "headers": {"Content-Type": "image/png"}}
    given = client.post("/v1/classify?sparsity=0.4&top_k=2", **image).json()
    sparsity = skip_map["operating_point"]["sparsity"]
    drawn = client.post(f"/v1/models/{LARGE.name}/skip-map?sparsity={sparsity}", **image).json()
    (told,), (got,) = answer["predictions"], given["predictions"]
    assert answer["operating_point"].keys() == given["operating_point"].keys()
    for name, value in answer["operating_point"].items():
        assert value == pytest.approx(given["operating_point"][name], abs=1e-3), name
    assert [one["label"] for one in told["classes"]] == [one["label"] for one in got["classes"]]
    assert (told["exit"], told["macs"]["dense"]) == (got["exit"], got["macs"]["dense"])
    assert told["skip_ratio"] == pytest.approx(got["skip_ratio"], abs=2e-3)
    assert told["macs"]["gated"] == pytest.approx(got["macs"]["gated"], rel=5e-3)
    found = next(one for one in drawn["layers"] if one["name"] == layer["name"])
    assert found.keys() == layer.keys()
    assert layer["kept"] == pytest.approx(found["kept"], rel=0.02)
    assert 0.1 < layer["skip_ratio"] < 0.9  # a layer that has something to show


def json_in(page, word):
    blocks = re.findall(r"```json\n(.*?)```", (HOME / page).read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if word in block)
    return json.loads(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_the_bundles_and_the_results(page):
    text = page.read_text(encoding="utf-8")
    assert "<!-- end of " in text
    assert fill_tables(text) == text


def test_the_example_image_is_a_parachute(large):
    engine = lccl.compile(large)
    image = large.preprocessing.apply(Image.open(HOME / "docs" / "example.png"))
    exact = large.in_precision(engine.precision).table.exact
    output = engine.run(image[None], RunOptions.of([exact.setting]))
    assert large.labels[int(output.logits[0].argmax())] == "parachute"


def test_strange_images_are_answered(shipped):
    """White, black, stripes, noise and single pixels are far from the training data, and must not overflow."""
    engine = lccl.compile(shipped)
    random, side = np.random.default_rng(0), shipped.preprocessing.size
    square = side, side
    grey = [np.full(square, 255), np.zeros(square), np.indices(square).sum(0) % 2 * 255, 255 * np.eye(side)]
    noise = [random.integers(0, 256, (*square, 3)), random.integers(0, 2, (*square, 3)) * 255]
    strange = np.stack([np.repeat(image[..., None], 3, axis=2) for image in grey] + noise).astype(np.uint8)
    for point in shipped.in_precision(engine.precision).table.points:
        assert np.isfinite(engine.run(strange, RunOptions.of([point.setting] * len(strange))).logits).all()


@pytest.fixture(scope="module")
def unseen():
    return every_unseen_image(5)


@needs_unseen_images
@pytest.mark.parametrize("sparsity", [0.0, 0.4])
def test_what_is_stated_is_reached_over_http_on_unseen_images(unseen, client, sparsity):
    """Mean skip ratio within 0.03 of what was asked; accuracy not significantly different, both errors counted."""
    right, ratios, point = 0, [], {}
    for start in range(0, len(unseen), 50):
        part = unseen[start : start + 50]
        files = [("file", image) for image, _ in part]
        answer = client.post(
            f"/v1/models/{SMALL.name}/classify", files=files, params={"sparsity": sparsity, "top_k": 1}
        ).json()
        point = answer["operating_point"]
        for (_, label), prediction in zip(part, answer["predictions"], strict=True):
            right += prediction["classes"][0]["label"] == label
            ratios.append(prediction["skip_ratio"])
    assert abs(np.mean(ratios) - max(sparsity, point["sparsity"])) <= 0.03
    reached, stated = right / len(unseen), point["expected_accuracy"]
    low, high = point["accuracy_interval"]
    error = math.hypot(math.sqrt(reached * (1 - reached) / len(unseen)), (high - low) / (2 * 1.96))
    assert abs(reached - stated) <= 1.96 * error
