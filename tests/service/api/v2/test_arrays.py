"""Long arrays of numbers in JSON: read in slices they are what they are when read at once, and faults are faults."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.json_text import SHORT_BYTES
from service.api.turns import LoopTurns
from service.api.v2 import arrays
from service.api.v2.arrays import read_long_array
from service.api.v2.requests import json_size, read_request
from service.api.v2.tensors import Interface
from tests.service.refusals import refused

SIZE = (24, 20, 3)
INTERFACE = Interface.of(24, 20, 3)
COUNT = 24
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, *SIZE), dtype=np.uint8)
NORMALISED = np.random.default_rng(1).normal(size=(COUNT, *SIZE)).astype(np.float32)
GIVEN = {"pixels": ("UINT8", PIXELS), "normalised": ("FP32", NORMALISED)}


def read(body, most=COUNT):
    return asyncio.run(read_request(body, json_size([], len(body)), INTERFACE, most, LoopTurns()))


def request(name, data, shape=(COUNT, *SIZE), **more):
    tensor = {"name": name, "shape": shape, "datatype": GIVEN[name][0], "data": "@", **more}
    return json.dumps({"id": "7", "inputs": [tensor], "outputs": [{"name": "index"}]}).encode().replace(b'"@"', data)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), ("\r\n ,\t", ":")])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("name", GIVEN)
def test_long_arrays_are_read_as_they_were_sent(name, nested, separators):
    values = GIVEN[name][1]
    data = json.dumps((values if nested else values.ravel()).tolist(), separators=separators).encode()
    body = request(name, data, parameters={"content_type": "np"})
    assert len(body) > SHORT_BYTES
    asked = read(body)
    assert asked.images.dtype == values.dtype
    assert np.array_equal(asked.images, values)
    assert (asked.id, [one.name for one in asked.outputs]) == ("7", ["index"])


def nested(value=b"1"):
    pixel = b"[" + b",".join([value] * 3) + b"]"
    row = b"[" + b",".join([pixel] * 20) + b"]"
    return b"[" + b",".join([b"[" + b",".join([row] * 24) + b"]"] * COUNT) + b"]"


NESTED, FLAT = nested(), b"[" + b",".join([b"1"] * PIXELS.size) + b"]"
MIDDLE = len(NESTED) // 2


def at(data, old, new, start):
    """The data with its first ``old`` behind a place replaced."""
    place = data.index(old, start)
    return data[:place] + new + data[place + len(old) :]


@pytest.mark.parametrize("start", [0, MIDDLE, arrays.SLICE - 60])
@pytest.mark.parametrize("data", [NESTED, FLAT])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b",", b""), (b",", b",,"), (b",1", b""), (b"1", b"1,1"), (b"1", b""), (b"1", b"1 1"), (b"1", b"01"),
        (b"1", b"[1]"), (b"1", b"]1"), (b",", b"]["), (b"1", b"x"), (b"1", b"true"), (b"1", b"null"), (b"1", b"256"),
        (b"1", b"-1"), (b"1", b"1.5"), (b"1", b"NaN"), (b"1", b"1e400"), (b"1", b"\xff"), (b"1,1", b"[1,1]"),
    ],
)  # fmt: skip
def test_a_fault_anywhere_in_a_long_array_is_refused(data, old, new, start):
    with refused("malformed"):
        read(request("pixels", at(data, old, new, start)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"[1,", b"1[,"), (b",1]", b",]1"), (b"],[", b"[],"), (b"],[", b",[]"), (b"],[", b",][,"), (b"]],[[", b"],[[]"),
        (b"[1", b"[ ["), (b"],[", b"],"), (b"],[", b"] ["), (b"1],[1", b"1,1"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("start", [0, MIDDLE, arrays.SLICE - 60])
def test_brackets_in_a_wrong_place_are_refused(old, new, start):
    with refused("malformed"):
        read(request("pixels", at(NESTED, old, new, start)))


@pytest.mark.parametrize("data", [NESTED, FLAT])
@pytest.mark.parametrize(
    "change", [lambda data: data[:-1] + b",]", lambda data: data[:-1] + b",1]", lambda data: b"[" + data + b"]"]
)
def test_an_array_is_as_long_as_its_shape_says(data, change):
    with refused("malformed"):
        read(request("pixels", change(data)))


@pytest.mark.parametrize("number", [b"1e39", b"-4e38"])
def test_numbers_that_are_not_finite_are_refused(number):
    with refused("bad_input", "finite"):
        read(request("normalised", at(nested(b"1.5"), b"1.5", number, MIDDLE)))


def test_a_long_array_that_is_no_tensor_is_refused():
    body = request("pixels", NESTED).replace(b'"id": "7"', b'"other": ' + FLAT)
    with refused("malformed", "are no image"):
        read(body)
    with refused("malformed", "base64 texts"):
        read(body.replace(b'"pixels"', b'"image"').replace(b"UINT8", b"BYTES").replace(b"[24, 24, 20, 3]", b"[1]"))


@given(
    st.lists(st.sampled_from([b"0", b"7", b"[", b"]", b",", b" ", b"-", b"1,", b"],["]), max_size=14), st.integers(2, 9)
)
def test_slices_take_what_a_parser_takes_and_nothing_else(pieces, slice_bytes):
    """Slices of a few bytes, against the parser on the whole."""
    content = b"[" + b"".join(pieces) + b"]"
    (signature,) = [one for one in Interface.of(1, 2, 3).inputs if one.name == "pixels"]
    expected = None
    try:
        parsed = np.array(json.loads(content), dtype=object)
        if parsed.shape in {(1, 1, 2, 3), (6,)} and all(isinstance(one, int) and one >= 0 for one in parsed.ravel()):
            expected = parsed.astype(np.uint8).reshape(1, 1, 2, 3)
    except ValueError:
        pass
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "SLICE", slice_bytes)
        try:
            found = asyncio.run(read_long_array(signature, (1, 1, 2, 3), content, (0, len(content)), LoopTurns()))
        except Exception:
            found = None
    if found is not None:
        assert np.array_equal(found, expected)
