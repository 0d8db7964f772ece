"""Quality requests, rates and images as they are typed."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from lccl_client.bench.inputs import drawn, from_folder, parse_rates, stream
from lccl_client.bench.results import read_answer
from lccl_client.load import Body


def streams_of(*texts, model=None, version=None, api_key=None):
    return [stream(text, [Body(b"x")], model, version, api_key) for text in texts]


def test_each_quality_request_becomes_a_stream_with_a_weight():
    exact, thrice, mixed = streams_of("exact", "exact:3", "operating_point=exact&max_accuracy_drop=2:0.5")
    assert (exact.method, exact.path, exact.name, exact.weight) == ("POST", "/v1/classify", "exact", 1.0)
    assert thrice.weight == 3
    assert mixed.path == "/v1/classify?operating_point=exact&max_accuracy_drop=2"
    assert (mixed.name, mixed.weight) == ("operating_point=exact&max_accuracy_drop=2", 0.5)
    (named,) = streams_of("exact", model="my model", version="2", api_key="key")
    assert named.path == "/v1/models/my%20model/versions/2/classify"
    assert named.headers["Authorization"] == "Bearer key"


@pytest.mark.parametrize("text", ["", "sparsty=1", "sparsity", "exact:0", "exact:-1", "exact:nan", "exact:much"])
def test_what_is_no_quality_request_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - some texts are refused by float() or parse_qsl()
        streams_of(text)


def test_what_is_no_answer_is_a_value_error():
    with pytest.raises(ValueError, match="no Answer"):
        read_answer(Body(b""), b"{}")


def rates_of(*texts, steps=3):
    return [(round(rate.value, 6), rate.of_capacity) for rate in parse_rates(list(texts), steps)]


def test_rates_are_numbers_lists_and_ranges():
    assert rates_of("200", "50,100") == [(200, False), (50, False), (100, False)]
    assert rates_of("100..400") == [(100, False), (200, False), (400, False)]
    assert rates_of("0.5..2x", "3x") == [(0.5, True), (1, True), (2, True), (3, True)]
    assert rates_of("0.5,1.5x") == [(0.5, True), (1.5, True)]
    fast, slow = parse_rates(["2x", "30"], 2)
    assert fast.per_second(100) == 200
    assert slow.per_second(100) == 30


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "inf", "5..2", "1..", "..3", "1,,2", "fast"])
def test_no_rate_is_refused(text):
    with pytest.raises(ValueError, match="is no rate"):
        parse_rates([text], 3)


@pytest.mark.parametrize(("size", "least", "most"), [("32x32", 600, 3000), ("500x375", 20_000, 120_000)])
def test_drawn_images_are_jpegs_of_their_size(size, least, most):
    bodies = drawn(size, 0)
    assert len({body.content for body in bodies}) == len(bodies) == 64
    with Image.open(io.BytesIO(bodies[0].content)) as image:
        assert (image.format, image.size) == ("JPEG", tuple(map(int, size.split("x"))))
    assert all(least < len(body.content) < most for body in bodies)


def test_drawn_images_follow_from_the_seed():
    assert drawn("8x8", 0) == drawn("8x8", 0) != drawn("8x8", 1000)


@pytest.mark.parametrize("size", ["", "32", "32x", "0x32", "axb", "32x-1"])
def test_no_size_is_refused(size):
    with pytest.raises(ValueError, match="not a size"):
        drawn(size, 0)


def test_images_come_from_a_folder_or_from_its_classes(tmp_path, draw_image):
    flat, classes = tmp_path / "flat", tmp_path / "classes"
    for file in (flat / "a.png", flat / "b.JPG", classes / "cat" / "1.png", classes / "dog" / "1.png"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(draw_image())
    (flat / "notes.txt").write_text("no image")
    assert [body.label for body in from_folder(flat, None, 0)] == [None, None]
    assert [body.label for body in from_folder(classes, None, 0)] == ["cat", "dog"]
    assert len(from_folder(classes, 1, 0)) == 1
    (classes / "cat" / "empty").mkdir()
    (classes / "1.png").write_bytes(draw_image())
    with pytest.raises(ValueError, match="both in it and in its subfolders"):
        from_folder(classes, None, 0)
    with pytest.raises(ValueError, match="neither in it nor"):
        from_folder(classes / "cat" / "empty", None, 0)
