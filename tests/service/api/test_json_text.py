"""JSON read in slices says the same as JSON read at once, and strict: no name twice, nothing long that is no image."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.json_text import SHORT_BYTES, TEXT_SLICE, load_json, shorten
from service.api.turns import LoopTurns
from tests.service.refusals import refused

JSON = {"Content-Type": "application/json"}
LONG = base64.b64encode(bytes(range(256)) * 300)


def shortened(whole, most=4):
    return asyncio.run(shorten(whole, most, LoopTurns()))


def decoded(text):
    """The bytes of a text in JSON that is long enough to be taken out."""

    async def decode():
        turns = LoopTurns()
        short = await shorten(b'{"image": "' + text + b'"}', 1, turns)
        assert len(short.text) < 100
        content = await short.from_base64(json.loads(short.text)["image"], turns)
        short.check_all_taken()
        return content

    return asyncio.run(decode())


def test_short_json_stays_as_it_is():
    assert shortened(b'{"a": "\\u0000"}').text == b'{"a": "\\u0000"}'


def test_long_texts_and_arrays_are_taken_out_and_the_rest_stays():
    whole = b'{"a\\"b": "' + LONG + b'", "n": [[1,' + b"2," * 5000 + b'3]], "s": "\\u0000 0", "e": "\\\\"}'
    short = shortened(whole)
    parsed = load_json(short.text)
    assert list(parsed) == ['a"b', "n", "s", "e"]
    assert parsed["e"] == "\\"
    (content, (start, end)) = short.array(parsed["n"])
    assert content[start:end] == b"[[1," + b"2," * 5000 + b"3]]"
    assert short.array(parsed["n"]) is None  # once
    assert short.array(["\0 0"]) is None
    with refused("malformed", "are no image"):
        short.check_all_taken()


@given(st.binary(min_size=1, max_size=9), st.integers(-8, 8), st.sampled_from(["", "slash", "all"]))
def test_long_base64_gives_its_bytes_wherever_slices_end(tail, shift, escaped):
    content = b"\xff\xef\xbe" * (TEXT_SLICE // 4 + shift) + tail
    text = base64.b64encode(content)
    if escaped:
        text = text.replace(b"/", b"\\/")
    if escaped == "all":
        text = text.replace(b"+", b"\\u002B").replace(b"=", b"\\u003d")
    assert decoded(text) == content


@pytest.mark.parametrize(
    "fault",
    [b"%", b"\xff", "é".encode(), b"\\n", b"\n", b"=", b"==", b"\\u00e9", b"\\ud800", b"\\x", b"\\\\", b"-", b" "],
)
@pytest.mark.parametrize("where", [8, TEXT_SLICE - 1, TEXT_SLICE, 600_000])
def test_long_texts_that_are_no_base64_are_refused(fault, where):
    text = b"A" * where + fault + b"A" * (1 << 18)
    with pytest.raises(ValueError, match=r"."):
        decoded(text)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_cut_base64_is_refused(cut):
    text = base64.b64encode(b"x" * 300_000)
    with pytest.raises(ValueError, match=r"padding|number of data characters"):
        decoded(text[:-cut])


@pytest.mark.parametrize(
    ("whole", "code"),
    [
        (b"[" * SHORT_BYTES * 2, "too_large"),
        (b" " * SHORT_BYTES * 2, "too_large"),
        (b'{"":' * SHORT_BYTES, "too_large"),
        (b'"",' * SHORT_BYTES, "too_large"),
        (b'"' + b'\\"' * SHORT_BYTES + b'"', "malformed"),
        (b'"' + b"x" * SHORT_BYTES * 2, "malformed"),
        (b'"x' + b"\\" * (SHORT_BYTES * 2 + 1) + b'"', "malformed"),
    ],
)
def test_hostile_json_is_refused_before_it_is_parsed(whole, code):
    with refused(code):
        short = shortened(whole)
        short.check_all_taken()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.just("\0 0"),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
        max_leaves=12,
    ),
    st.booleans(),
)
def test_what_is_not_long_is_parsed_as_ever(value, ascii_only):
    """A long text beside it makes the whole long; marks that somebody wrote himself are texts that belong nowhere."""
    whole = json.dumps([value, LONG.decode()], ensure_ascii=ascii_only).encode()
    short = shortened(whole, most=20)
    parsed = load_json(short.text)
    if "\\u0000" not in json.dumps(value):
        assert parsed[0] == value
    asyncio.run(short.from_base64(parsed[1], LoopTurns()))
    if '"\\u0000' in json.dumps(value):
        with refused("malformed"):
            short.check_all_taken()
    else:
        short.check_all_taken()


@pytest.mark.parametrize(
    "fields",
    [
        b'"sparsity": 0.3, "sparsity": 0.3', b'"image": "YQ=="', b'"image": null', b'"top_k": 1, "top\\u005fk": 2',
        b'"operating_point": "a:b", "top_k": 1, "top_k": 1', b'"x": {"a": 1, "a": 2}', b'"x": [{"a": 1, "a": 2}]',
    ],
)  # fmt: skip
@pytest.mark.parametrize("long", [False, True])
def test_a_name_given_twice_is_refused(client, draw_image, fields, long):
    image = draw_image(size=(200, 200) if long else (20, 20))
    body = b'{"image": "' + base64.b64encode(image) + b'", ' + fields + b"}"
    assert (len(body) > SHORT_BYTES) == long
    answer = client.post("/v1/classify", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_field")
    assert "given twice" in answer.json()["detail"]
    once = body.replace(b", " + fields, b', "sparsity": 0.3')
    assert client.post("/v1/classify", content=once, headers=JSON).status_code == 200


def test_a_colon_in_a_text_is_no_name(client, draw_image):
    answer = client.post(
        "/v1/classify", json={"image": base64.b64encode(draw_image()).decode(), "operating_point": "a:b"}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_wish")


@pytest.mark.parametrize("field", ["sparsity", "operating_point", "x", "images"])
def test_long_values_of_other_fields_are_refused(client, draw_image, field):
    text = base64.b64encode(draw_image(size=(200, 200))).decode()
    answer = client.post("/v1/classify", json={"image": text, field: text})
    assert answer.status_code in {400, 422}


def test_long_json_is_answered_like_a_short_one(client, draw_image):
    images = [draw_image(size=(170, 170), seed=seed) for seed in range(3)]
    form = client.post("/v1/classify", files=[("file", one) for one in images], data={"sparsity": "0.3"}).json()
    texts = [base64.b64encode(one).decode() for one in images]
    body = json.dumps({"images": texts, "sparsity": 0.3}).replace("/", "\\/").replace("=", "\\u003d")
    assert client.post("/v1/classify", content=body, headers=JSON).json()["predictions"] == form["predictions"]


def test_more_images_than_are_taken_are_refused_before_they_are_decoded(client):
    answer = client.post("/v1/classify", json={"images": ["%" * 9000] * 9})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "9 images" in answer.json()["detail"]
