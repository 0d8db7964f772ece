"""Skip maps over a real socket: as JSON, drawn, beside other requests, and refused."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import lccl
from lccl.request import QualityRequest
from lccl.skip_map import SkipMap
from tests.service.engines import Around, Gated, wait_for

PNG = {"Content-Type": "image/png"}
DRAWN = PNG | {"Accept": "image/png"}
MAP = "/v1/models/small/skip-map"


def ask(client, content, path=MAP, headers=PNG, **query):
    return client.post(path, content=content, headers=headers, params=query)


def expected(models_folder, content, **quality):
    bundle = lccl.load(models_folder / "small")
    image = Image.open(io.BytesIO(content))
    return SkipMap.of(bundle, image, QualityRequest(**quality)), bundle.preprocessing.apply(image)


def array(layer):
    return np.array([[[int(cell) for cell in row] for row in rows] for rows in layer["mask"]], np.uint8)


def test_the_masks_are_the_librarys(client, draw_image, models_folder):
    content = draw_image(seed=3)
    answer = ask(client, content, sparsity=0.3).json()
    skips, _ = expected(models_folder, content, sparsity=0.3)
    assert answer["image"] == {"width": 32, "height": 32, "seen": 1.0, "fit": "crop"}
    assert len(answer["layers"]) == len(skips.layers) == 18
    for told, layer in zip(answer["layers"], skips.layers, strict=True):
        np.testing.assert_array_equal(array(told), layer.mask)
        assert told["name"] == layer.name
        assert (told["cells"], told["kept"], told["macs"]) == (layer.cells, layer.kept, layer.macs)
        assert told["skip_ratio"] == pytest.approx(layer.skip_ratio)
        assert array(told).shape[1:] == (told["height"], told["width"])
    assert answer["prediction"]["skip_ratio"] == pytest.approx(skips.skip_ratio)


def test_beside_the_masks_the_answer_is_that_of_classify(client, draw_image):
    content = draw_image(seed=4)
    shown = ask(client, content, sparsity=0.3, top_k=3).json()
    plain = ask(client, content, "/v1/models/small/classify", sparsity=0.3, top_k=3).json()
    assert shown["prediction"] == plain["predictions"][0]
    assert shown["operating_point"] == plain["operating_point"]
    assert set(shown["timing_ms"]) == set(plain["timing_ms"])
    assert (shown["model"], shown["version"]) == (plain["model"], plain["version"])


def test_one_layer_can_be_asked_for(client, draw_image):
    every = ask(client, draw_image()).json()["layers"]
    one = ask(client, draw_image(), layer="blocks.4.conv2").json()["layers"]
    assert one == [layer for layer in every if layer["name"] == "blocks.4.conv2"]


@pytest.mark.parametrize("layer", [None, "blocks.0.conv1"])
def test_a_png_shows_it_on_what_the_network_saw(client, draw_image, models_folder, layer):
    content = draw_image(seed=5)
    answer = ask(client, content, headers=DRAWN, sparsity=0.4, **({"layer": layer} if layer else {}))
    assert answer.headers["Content-Type"] == "image/png"
    skips, seen = expected(models_folder, content, sparsity=0.4)
    drawn = Image.open(io.BytesIO(answer.content))
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(skips.draw(Image.fromarray(seen), layer)))
    comment = json.loads(drawn.text["Comment"])
    assert comment["operating_point"]["sparsity"] == 0.4
    assert comment["prediction"]["skip_ratio"] == pytest.approx(skips.skip_ratio)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/html,IMAGE/PNG;q=0.5", "image/png"),
        ("image/apng, image/*", "application/json"),
    ],
)
def test_accept_chooses_the_form(client, draw_image, accept, kind):
    assert ask(client, draw_image(), headers=PNG | {"Accept": accept}).headers["Content-Type"] == kind


def test_the_three_encodings_and_a_version_agree(client, draw_image):
    content = draw_image(seed=6)
    raw = ask(client, content, sparsity=0.25).json()["layers"]
    form = client.post(MAP, files={"file": content}, data={"sparsity": "0.25"}).json()["layers"]
    text = base64.b64encode(content).decode()
    whole = client.post("/v1/models/small/versions/1/skip-map", json={"image": text, "sparsity": 0.25}).json()["layers"]
    alone = client.post(MAP, json={"image": text, "sparsity": 0.25, "layer": "blocks.0.conv2"}).json()["layers"]
    assert raw == form == whole
    assert alone == [raw[1]]


def test_a_plain_twin_has_no_layers_and_is_drawn_as_it_is(client, draw_image):
    answer = ask(client, draw_image(), "/v1/models/twin/skip-map").json()
    assert answer["layers"] == []
    assert answer["prediction"]["skip_ratio"] == 0
    drawn = ask(client, draw_image(), "/v1/models/twin/skip-map", DRAWN)
    assert Image.open(io.BytesIO(drawn.content)).size == (256, 256)


@pytest.mark.parametrize(
    ("path", "content", "query", "status", "code"),
    [
        ("/v1/models/none/skip-map", None, {}, 404, "unknown_model"),
        ("/v1/models/small/versions/9/skip-map", None, {}, 404, "unknown_model"),
        (MAP, b"no image", {}, 415, "not_an_image"),
        (MAP, b"", {}, 400, "malformed"),
        (MAP, b"\x89PNG\r\n\x1a\n", {}, 415, "not_an_image"),
        (MAP, None, {"sparsity": 0.99}, 422, "bad_wish"),
        (MAP, None, {"sparsity": "nan"}, 422, "invalid_field"),
        (MAP, None, {"layer": "blocks.99"}, 422, "bad_input"),
        (MAP, None, {"layer": "../../etc/passwd\0"}, 422, "bad_input"),
        (MAP, None, {"layer": "x" * 65}, 422, "invalid_field"),
        (MAP, None, {"layers": "blocks.0.conv1"}, 422, "invalid_field"),
        ("/v1/models/small/classify", None, {"layer": "blocks.0.conv1"}, 422, "invalid_field"),
    ],
)
@pytest.mark.parametrize("headers", [PNG, DRAWN])
def test_what_cannot_be_is_refused(client, draw_image, path, content, query, status, code, headers):
    answer = ask(client, draw_image() if content is None else content, path, headers, **query)
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == code
    assert len(answer.content) < 2000
    assert ask(client, draw_image()).status_code == 200


def test_several_images_are_refused(client, draw_image):
    answer = client.post(MAP, files=[("file", draw_image()), ("file", draw_image())])
    assert answer.status_code == 413
    assert "one at a time" in answer.json()["detail"]


def test_a_body_beyond_the_limit_is_refused(client):
    assert ask(client, b"x" * ((1 << 20) + 1)).status_code == 413


def test_a_layer_may_come_as_a_header(client, draw_image):
    answer = ask(client, draw_image(), headers=PNG | {"X-LCCL-Layer": "blocks.1.conv1"})
    assert [layer["name"] for layer in answer.json()["layers"]] == ["blocks.1.conv1"]


def test_keys_are_asked_for(serve, draw_image):
    with serve(api_key="s3cret") as client:
        assert ask(client, draw_image()).status_code == 401
        assert ask(client, draw_image(), headers=PNG | {"X-API-Key": "s3cret"}).status_code == 200


class Watched(Around):
    """Remembers how many images each batch had, and whether masks were asked for."""

    def __init__(self, engine):
        super().__init__(engine)
        self.batches = []

    def run(self, images, options, **how):
        output = self._engine.run(images, options, **how)
        self.batches.append((len(images), options.want_masks, output.masks is not None))
        return output


def test_masks_are_made_for_those_who_ask_and_after_the_others(serve, draw_image):
    with serve(compute_threads=1, compute_streams=1, self_test_interval_s=600) as client, ThreadPoolExecutor(8) as pool:
        state = client.app.state
        model = state.registry.find("small")
        watched = Watched(model.engine)
        model.engine = Gated(watched)
        first = pool.submit(ask, client, draw_image(), "/v1/classify")
        wait_for(lambda: model.engine.entered)
        paths = [MAP, "/v1/classify", MAP, "/v1/classify", "/v1/classify"]
        rest = [pool.submit(ask, client, draw_image(seed=number), path) for number, path in enumerate(paths)]
        wait_for(lambda: state.batcher.depth(model.key) == len(paths))
        model.engine.go.set()
        assert first.result().status_code == 200
        answers = [one.result() for one in rest]
        assert [one.status_code for one in answers] == [200] * 5
        assert ["layers" in one.json() for one in answers] == [path == MAP for path in paths]
        assert watched.batches == [(1, False, False), (3, False, False), (2, True, True)]


def test_a_skip_map_is_counted_like_any_request(serve, draw_image):
    with serve(self_test_interval_s=600) as client:
        before = client.get("/metrics").text
        assert ask(client, draw_image(), operating_point="p25").status_code == 200
        line = 'lccl_images_total{model="small",operating_point="p25"} 1.0'
        assert line not in before
        wait_for(lambda: line in client.get("/metrics").text)  # counted after it was sent off
        assert 'route="/v1/models/{model}/skip-map"' in client.get("/metrics").text
