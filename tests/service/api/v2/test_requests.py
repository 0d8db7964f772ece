"""The Open Inference Protocol's bytes: read and written as Triton's own client does, and hostile ones refused."""

from __future__ import annotations

import asyncio
import base64
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult

from lccl.errors import InputError
from service.api.turns import LoopTurns
from service.api.v2.requests import InferRequest, json_size, read_request, write_answer
from service.api.v2.tensors import Interface, RequestedOutput, tensors
from service.errors import ServiceError
from tests.service.refusals import refused

INTERFACE = Interface.of(4, 5, 3, exits=True)
LABELS = ("cat", "sea lion", "ship 🚢")
NAMES = ("logits", "probabilities", "index", "label", "skip_ratio", "macs", "exit")
DECLARED = (ServiceError, InputError)
PIXELS = np.arange(120, dtype=np.uint8).reshape(2, 4, 5, 3)
NORMALISED = np.linspace(-3, 3, 120, dtype=np.float32).reshape(2, 4, 5, 3)
IMAGES = [b"\x89PNG\r\n\0\xff", b""]
INPUTS = {"image": np.array(IMAGES, dtype=np.object_), "pixels": PIXELS, "normalised": NORMALISED}
DATATYPES = {"image": "BYTES", "pixels": "UINT8", "normalised": "FP32"}
TEXT = base64.b64encode(b"image").decode()


def read(body, header=None, most=8):
    headers = [] if header is None else [str(header)]
    return asyncio.run(read_request(body, json_size(headers, len(body)), INTERFACE, most, LoopTurns()))


def triton_body(name, values, binary, **request):
    """A request as Triton's client writes it."""
    if name == "image" and not binary:
        values = np.array([base64.b64encode(value) for value in values], dtype=np.object_)
    tensor = InferInput(name, list(values.shape), DATATYPES[name])
    tensor.set_data_from_numpy(values, binary_data=binary)
    return InferenceServerClient.generate_request_body([tensor], **request)


def same(images, values):
    if isinstance(images, list):
        return images == values.tolist()
    return images.dtype == values.dtype and np.array_equal(images, values)


def answers(count=2, classes=3):
    random = np.random.default_rng(count)
    logits = random.normal(size=(count, classes)).astype(np.float32)
    powers, index = np.exp(logits), logits.argmax(axis=1)
    return {
        "logits": logits, "probabilities": powers / powers.sum(axis=1, keepdims=True), "index": index,
        "label": [LABELS[best].encode() for best in index], "exit": random.integers(-1, 3, count),
        "skip_ratio": random.random(count, np.float32), "macs": random.integers(0, 1 << 40, (count, 3)),
    }  # fmt: skip


def said(name="image", **fields):
    """A JSON request with one input, fields of which may be set or, with None, left out."""
    tensor = {"name": name, "datatype": "BYTES", "shape": [1], "data": [TEXT]} | fields
    return {"inputs": [{key: value for key, value in tensor.items() if value is not None}]}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", INPUTS)
def test_what_tritons_client_sends_is_read(name, binary):
    outputs = [
        InferRequestedOutput("label", binary_data=False), InferRequestedOutput("logits"),
        InferRequestedOutput("probabilities", class_count=2),
    ]  # fmt: skip
    quality = {"sparsity": 0.4, "max_accuracy_drop": 2, "operating_point": "p45", "exit_confidence": 0.8}
    body, header = triton_body(name, INPUTS[name], binary, request_id="é-7", outputs=outputs, parameters=quality)
    request = read(body, header)
    assert same(request.images, INPUTS[name])
    assert request.id == "é-7"
    assert request.quality == quality
    assert request.outputs == (
        RequestedOutput("label", False), RequestedOutput("logits", True), RequestedOutput("probabilities", True, 2),
    )  # fmt: skip


def test_without_outputs_all_are_given_as_the_request_says():
    body, header = triton_body("pixels", PIXELS, True)
    assert read(body, header).outputs == tuple(RequestedOutput(name, True) for name in NAMES)
    assert read(json.dumps(said()).encode()).outputs == tuple(RequestedOutput(name, False) for name in NAMES)
    some = said() | {"parameters": {"binary_data_output": True}, "outputs": [{"name": "index"}]}
    assert read(json.dumps(some).encode()).outputs == (RequestedOutput("index", True),)
    some["outputs"][0]["parameters"] = {"binary_data": False}
    assert read(json.dumps(some).encode()).outputs == (RequestedOutput("index", False),)


def test_json_data_may_be_nested_like_its_shape_and_fields_null():
    body = said("pixels", datatype="UINT8", shape=[2, 4, 5, 3], data=PIXELS.tolist())
    body |= {"id": None, "parameters": None, "outputs": None, "model_name": "of KServe's client"}
    assert same(read(json.dumps(body).encode()).images, PIXELS)


@given(
    name=st.sampled_from(["pixels", "normalised"]),
    count=st.integers(1, 4),
    binary=st.booleans(),
    nested=st.booleans(),
    data=st.data(),
)
def test_numbers_arrive_as_they_were_sent(name, count, binary, nested, data):
    shape = (count, 4, 5, 3)
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    values = data.draw(
        arrays.arrays(np.uint8, shape) if name == "pixels" else arrays.arrays(np.float32, shape, elements=finite)
    )
    if nested:
        tensor = {"name": name, "datatype": DATATYPES[name], "shape": shape, "data": values.tolist()}
        request = read(json.dumps({"inputs": [tensor]}).encode())
    else:
        request = read(*triton_body(name, values, binary))
    assert same(request.images, values)


@given(images=st.lists(st.binary(max_size=40), min_size=1, max_size=8), binary=st.booleans())
def test_images_arrive_as_they_were_sent(images, binary):
    values = np.empty(len(images), dtype=np.object_)
    values[:] = images
    assert read(*triton_body("image", values, binary)).images == images


@given(
    count=st.integers(1, 5),
    classes=st.integers(1, 3),
    wanted=st.lists(
        st.tuples(st.sampled_from(NAMES), st.booleans(), st.integers(0, 4)), min_size=1, unique_by=lambda one: one[0]
    ),
)
def test_tritons_client_reads_what_is_answered(count, classes, wanted):
    given_answers = answers(count, classes)
    outputs = [RequestedOutput(name, binary, top if name in NAMES[:2] else 0) for name, binary, top in wanted]
    head = {"model_name": "small", "model_version": "1", "id": "ü", "parameters": {"sparsity": 0.4}}
    body, size = write_answer(head, outputs, tensors(given_answers, LABELS, outputs))
    result = InferResult.from_response_body(body, header_length=size)
    assert (size is None) == (not any(output.binary for output in outputs))
    assert {key: result.get_response()[key] for key in head} == head
    assert [output["name"] for output in result.get_response()["outputs"]] == [output.name for output in outputs]
    for output in outputs:
        found = result.as_numpy(output.name)
        if output.classes:
            assert found.shape == (count, min(output.classes, classes))
        elif output.name == "label":
            assert [text.decode() if isinstance(text, bytes) else text for text in found] == [
                LABELS[best] for best in given_answers["index"]
            ]
        else:
            assert found.dtype == (np.int64 if output.name in {"index", "macs", "exit"} else np.float32)
            assert np.array_equal(found, given_answers[output.name])


@pytest.mark.parametrize(
    ("name", "first"), [("logits", "3.500000:1:sea lion"), ("probabilities", "0.900000:1:sea lion")]
)
def test_classification_names_value_index_and_label_best_first(name, first):
    logits, probabilities = np.array([[1, 3.5, -1]], np.float32), np.array([[0.09, 0.9, 0.01]], np.float32)
    given_answers = {"logits": logits, "probabilities": probabilities}
    (tensor,) = tensors(given_answers, LABELS, [RequestedOutput(name, False, 3)])
    assert tensor.shape == (1, 3)
    assert tensor.to_json()[0] == first
    assert [text.split(":")[1] for text in tensor.to_json()] == ["1", "0", "2"]
    (fewer,) = tensors(given_answers, LABELS, [RequestedOutput(name, False, 1)])
    assert fewer.to_json() == [first]


PIXEL = {"datatype": "UINT8", "shape": [1, 4, 5, 3]}
NUMBER = {"datatype": "FP32", "shape": [1, 4, 5, 3]}


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (b"", "malformed", "JSON cannot be read"),
        (b"{", "malformed", "JSON cannot be read"),
        (b"\xff{}", "malformed", "JSON cannot be read"),
        (b"[]", "malformed", "not an infer request"),
        (b"7", "malformed", "not an infer request"),
        (b"{}", "malformed", "inputs: Field required"),
        (b'{"inputs": []}', "malformed", "send exactly one, of image, pixels, normalised"),
        (b"[" * 1500, "malformed", "nested too deeply"),
        (b'{"inputs":' * 990, "malformed", "nested too deeply"),
        (b'{"inputs": [], "inputs": []}', "invalid_field", "'inputs' is given twice"),
        (b'{"inputs": [], "parameters": {"sparsity": NaN}}', "malformed", "NaN is no JSON"),
        (b'{"inputs": [], "id": ' + b"9" * 5000 + b"}", "malformed", "JSON cannot be read"),
        (b'{"\\ud800": 1, "\\ud800": 2}', "invalid_field", "given twice"),
        ({"inputs": said()["inputs"] * 2}, "malformed", "2 inputs: send exactly one"),
        ({"inputs": said()["inputs"] * 17}, "malformed", "inputs: List should have at most 16"),
        ({"inputs": said()["inputs"] + said("pixels")["inputs"]}, "malformed", "send exactly one"),
        (said("photo"), "malformed", "no input 'photo': send one of image, pixels, normalised"),
        (said("\ud800"), "malformed", "name"),
        (said(name="x" * 65), "malformed", "at most 64"),
        (said(datatype="STRING"), "malformed", "'STRING': send it as BYTES"),
        (said("pixels", datatype="FP64"), "malformed", "send it as UINT8"),
        (said(datatype=7), "malformed", "datatype"),
        (said(shape=[2]), "malformed", "send 2 values"),
        (said(shape=[1, 1]), "malformed", r"send \[-1\]"),
        (said(shape=[]), "malformed", r"send \[-1\]"),
        (said(shape=[-1]), "malformed", "greater than or equal to 0"),
        (said(shape=[True]), "malformed", "valid integer"),
        (said(shape=[1.0]), "malformed", "valid integer"),
        (said(shape=[1 << 63]), "malformed", "less than"),
        (said(shape=[1] * 9), "malformed", "at most 8"),
        (said(shape="1"), "malformed", "valid list"),
        (said(shape=[0], data=[]), "malformed", "send at least one"),
        (said(shape=[9], data=[TEXT] * 9), "too_large", "at most 8"),
        (said(shape=[(1 << 63) - 1]), "too_large", "at most 8"),
        (said("pixels", datatype="UINT8", shape=[1 << 62, 4, 5, 3], data=[1]), "too_large", "at most 8"),
        (said("pixels", datatype="UINT8", shape=[1, 5, 4, 3], data=[1]), "malformed", r"\[-1, 4, 5, 3\]"),
        (said("pixels", **PIXEL, data=[1] * 59), "malformed", "send 60 values"),
        (said("pixels", **PIXEL, data=[[1] * 60]), "malformed", "nested like the shape"),
        (said("pixels", **PIXEL, data=[[[[1, 2, 3]] * 5] * 3 + [[[1, 2, 3]] * 4]]), "malformed", "nested"),
        (said("pixels", **PIXEL, data=[256] * 60), "malformed", "a number that UINT8 lacks"),
        (said("pixels", **PIXEL, data=[-1] * 60), "malformed", "a number that UINT8 lacks"),
        (said("pixels", **PIXEL, data=[True] * 60), "malformed", "no UINT8"),
        (said("pixels", **PIXEL, data=[1.5] * 60), "malformed", "no UINT8"),
        (said("pixels", **PIXEL, data=[None] * 60), "malformed", "no UINT8"),
        (said("normalised", **NUMBER, data=["1"] * 60), "malformed", "no FP32"),
        (said("normalised", **NUMBER, data=[1e39] * 60), "bad_input", "send finite numbers"),
        (said("normalised", **NUMBER, data=[10**400] * 60), "malformed", "a number that FP32 lacks"),
        (said(data=[7]), "malformed", "base64 texts"),
        (said(data=["%%%"]), "malformed", "element 0 of input image is not valid base64"),
        (said(data=["é"]), "malformed", "not valid base64"),
        (said(data="YQ=="), "malformed", "valid list"),
        (said(data=None), "malformed", "has no data"),
        (said(parameters={"binary_data_size": 7}), "malformed", "both data and binary_data_size"),
        (said(data=None, parameters={"binary_data_size": 7}), "malformed", "0 bytes follow the JSON"),
        (said(parameters={"shared_memory_region": "x"}), "invalid_field", "use binary_data_size"),
        (said(parameters=[]), "malformed", "valid dictionary"),
        (said() | {"parameters": {"sparsty": 0.4}}, "invalid_field", "'sparsty': use sparsity, operating_point"),
        (said() | {"parameters": {"sparsity": [0.4]}}, "malformed", "parameters.sparsity"),
        (said() | {"parameters": {str(n): n for n in range(65)}}, "malformed", "at most 64"),
        (said() | {"parameters": {"binary_data_output": 1}}, "invalid_field", "true or false"),
        (said() | {"outputs": [{"name": "embedding"}]}, "malformed", "'embedding': there are logits"),
        (said() | {"outputs": [{"name": "index"}] * 2}, "malformed", "index is asked for twice"),
        (said() | {"outputs": [{}]}, "malformed", "outputs.0.name: Field required"),
        (
            said() | {"outputs": [{"name": "index", "parameters": {"classification": 2}}]},
            "invalid_field", "ask it of logits or probabilities",
        ),
        (
            said() | {"outputs": [{"name": "logits", "parameters": {"classification": -1}}]},
            "invalid_field", "whole number from 0 on",
        ),
        (
            said() | {"outputs": [{"name": "logits", "parameters": {"classification": True}}]},
            "invalid_field", "whole number from 0 on",
        ),
        (
            said() | {"outputs": [{"name": "logits", "parameters": {"binary": True}}]},
            "invalid_field", "use binary_data, classification",
        ),
        (said() | {"id": 7}, "malformed", "id"),
        (said() | {"id": "x" * 1025}, "malformed", "at most 1024"),
    ],
)  # fmt: skip
def test_bad_requests_are_told_what_to_do(body, kind, text):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with refused(kind, text) as caught:
        read(content)
    str(caught.value).encode()


def binary_request(content, size=None, name="pixels", shape=(1, 4, 5, 3)):
    tensor = {"name": name, "datatype": DATATYPES[name], "shape": shape}
    tensor["parameters"] = {"binary_data_size": len(content) if size is None else size}
    text = json.dumps({"inputs": [tensor]}).encode()
    return text + content, len(text)


@pytest.mark.parametrize(
    ("request_", "kind", "text"),
    [
        (binary_request(b"x" * 59), "malformed", "has 59 bytes: UINT8 of shape .* has 60"),
        (binary_request(b"x" * 60, 59), "malformed", "'59', and 60 bytes follow"),
        (binary_request(b"x" * 61), "malformed", "has 61 bytes: UINT8 of shape .* has 60"),
        (binary_request(b"x", True), "malformed", "1 bytes follow"),
        (binary_request(b"x" * 60, 60.0), "malformed", "60 bytes follow"),
        (binary_request(b"x" * 60, -60), "malformed", "60 bytes follow"),
        (binary_request(b"x" * 60, 10**4000), "malformed", "60 bytes follow"),
        (binary_request(b"\xff" * 240, name="normalised"), "bad_input", "NaN or infinity"),
        (binary_request(b"\0\0", name="image", shape=(1,)), "malformed", "ends before element 0"),
        (binary_request(b"\5\0\0\0abc", name="image", shape=(1,)), "malformed", "claims 5 bytes, of which 3"),
        (binary_request(b"\xff\xff\xff\xffabc", name="image", shape=(1,)), "malformed", "claims 4294967295"),
        (
            binary_request(b"\1\0\0\0ab", name="image", shape=(1,)),
            "malformed",
            "1 bytes after its 1",
        ),
        (binary_request(b"\1\0\0\0a", name="image", shape=(2,)), "malformed", "ends before element 1"),
        ((json.dumps(said()).encode() + b"more", len(json.dumps(said()))), "malformed", "no input has"),
    ],
)
def test_bad_binary_tensors_are_told_what_to_do(request_, kind, text):
    body, header = request_
    with refused(kind, text):
        read(body, header)


@pytest.mark.parametrize("headers", [["-1"], ["+1"], ["1.0"], [""], ["٣"], ["11"], ["9" * 5000], ["1", "1"], ["0x1"]])
def test_the_length_of_the_json_is_a_number_within_the_body(headers):
    with refused("malformed", "Inference-Header-Content-Length"):
        json_size(headers, 10)


def test_the_length_of_the_json_may_be_all_or_nothing():
    assert json_size([], 10) == json_size(["10"], 10) == 10
    assert json_size(["0"], 10) == 0


@pytest.mark.parametrize("part", ["[", "[],", "{},", "0,", '{"inputs":'])
def test_json_with_more_in_it_than_a_request_has_is_not_parsed(part):
    with refused("too_large", "more values than 8 images"):
        read(part.encode() * 2000)
    with refused("malformed"):
        read(part.encode() * 900)


def test_the_longest_request_is_short_enough_to_be_parsed():
    pixels = np.zeros((8, 4, 5, 3), np.uint8)
    body = said("pixels", datatype="UINT8", shape=pixels.shape, data=pixels.tolist())
    assert same(read(json.dumps(body).encode()).images, pixels)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
VALID = [triton_body(name, values, binary) for name, values in INPUTS.items() for binary in (True, False)]


def replaced(value, path, new):
    """A JSON value with the part that ``path`` leads to, by turns of the dial, exchanged."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    if isinstance(value, list):
        place = path[0] % len(value)
        return [*value[:place], replaced(value[place], path[1:], new), *value[place + 1 :]]
    name = sorted(value)[path[0] % len(value)]
    return value | {name: replaced(value[name], path[1:], new)}


def read_or_refuse(body, header):
    try:
        request = read(body, header)
    except DECLARED as error:
        str(error).encode()  # as it will be sent
    else:
        assert isinstance(request, InferRequest)
        assert 1 <= len(request.images) <= 8


@given(
    valid=st.sampled_from(VALID),
    cuts=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=4),
    shift=st.integers(-3, 3),
)
@settings(max_examples=500)
def test_damaged_bytes_are_read_or_refused(valid, cuts, shift):
    body, header = valid
    for place, removed, added in cuts:
        start = place % (len(body) + 1)
        body = body[:start] + added + body[start + removed :]
    read_or_refuse(body, None if header is None else header + shift)


@given(valid=st.sampled_from(VALID), path=st.lists(st.integers(0, 50), min_size=1, max_size=7), new=JSON_VALUES)
@settings(max_examples=500)
def test_exchanged_json_is_read_or_refused(valid, path, new):
    body, header = valid
    size = len(body) if header is None else header
    text = json.dumps(replaced(json.loads(body[:size]), path, new)).encode()
    read_or_refuse(text + body[size:], len(text))


@given(st.binary(max_size=200), st.none() | st.text(max_size=5))
def test_any_bytes_are_read_or_refused(body, header):
    read_or_refuse(body, header)
