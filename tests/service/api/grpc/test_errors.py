"""Errors over gRPC: each code of the one table with its status, its details, and its place in metrics."""

from __future__ import annotations

import re
from contextlib import suppress

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from service.api.grpc.calls import _status
from service.api.grpc.contents import MAX_PARTS, check_parts
from service.api.grpc.messages import InferTensorContents, ModelInferRequest
from service.errors import STATUS, ServiceError, problem
from tests.service.api.grpc.conftest import ask, connected, refused
from tests.service.engines import Poisoned
from tests.service.refusals import refused as refused_here


@pytest.mark.parametrize("code", STATUS)
def test_every_code_has_a_status_and_says_itself_in_the_details(code):
    status, details = _status(problem(ServiceError(code, "what", 2.5)))
    assert status is grpc.StatusCode[STATUS[code][1]]
    rich, info, retry = Status.FromString(details), ErrorInfo(), RetryInfo()
    assert rich.code == status.value[0]
    assert rich.details[0].Unpack(info)
    assert rich.details[1].Unpack(retry)
    assert (info.reason, info.domain, retry.retry_delay.seconds) == (code.upper(), "lccl", 3)


@pytest.fixture(scope="module")
def image(draw_image):
    return draw_image()


def other(change, raw=False):
    """A request that differs from a good one."""

    def made(image):
        sent = ask([image], raw=raw)
        change(sent)
        return sent

    return made


def pixels(**changes):
    def made(_):
        sent = ask(np.zeros((1, 32, 32, 3), np.uint8), raw=changes.pop("raw", False))
        for name, value in changes.items():
            setattr(sent.inputs[0], name, value)
        return sent

    return made


def mixed(sent):
    sent.raw_input_contents.append(b"1234")


def cut(sent):
    sent.raw_input_contents[0] = sent.raw_input_contents[0][:-1]


BAD = {
    "no input": (other(lambda sent: sent.ClearField("inputs")), "malformed", "0 inputs"),
    "two inputs": (other(lambda sent: sent.inputs.add(name="image")), "malformed", "2 inputs"),
    "another input": (other(lambda sent: setattr(sent.inputs[0], "name", "x")), "malformed", "no input 'x'"),
    "another output": (other(lambda sent: sent.outputs.add(name="x")), "malformed", "no output 'x'"),
    "another datatype": (pixels(datatype="FP32"), "malformed", "UINT8"),
    "too few numbers": (
        lambda _: other(lambda sent: sent.inputs[0].contents.ClearField("bytes_contents"))(b"x"),
        "malformed", "does not have the shape",
    ),
    "another list": (other(lambda sent: sent.inputs[0].contents.fp32_contents.append(1)), "malformed", "fp32_contents"),
    "both forms": (other(mixed), "malformed", "contents and raw_input_contents"),
    "two raw contents": (other(mixed, raw=True), "malformed", "2 raw_input_contents for 1 input"),
    "raw cut off": (other(cut, raw=True), "malformed", "claims"),
    "negative shape": (other(lambda sent: sent.inputs[0].shape.__setitem__(0, -1)), "malformed", "shape"),
    "long name": (other(lambda sent: setattr(sent.inputs[0], "name", "x" * 99)), "malformed", "name"),
    "no value": (other(lambda sent: sent.parameters["sparsity"].SetInParent()), "malformed", "sparsity"),
    "unknown parameter": (lambda image: ask([image], sparcity=0.4), "invalid_field", "sparcity"),
    "top_k": (lambda image: ask([image], timeout=-1), "invalid_field", "timeout"),
    "no number": (lambda image: ask([image], sparsity="much"), "invalid_field", "sparsity"),
    "out of range": (lambda image: ask([image], sparsity=0.9), "bad_wish", "0.100 to 0.600"),
    "two targets": (lambda image: ask([image], sparsity=0.3, operating_point="p25"), "bad_wish", "two targets"),
    "not finite": (
        lambda _: ask(np.full((1, 32, 32, 3), np.nan, np.float32)), "bad_input", "NaN",
    ),
    "no image": (lambda _: ask([b"hello"]), "not_an_image", "element 0"),
    "damaged image": (lambda image: ask([image, image[:-40]]), "damaged_image", "element 1"),
    "no message": (lambda _: b"\xff\xff\xff\xff", "malformed", "no ModelInferRequest"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_an_invalid_argument(rpc, image, name):
    make, code, text = BAD[name]
    with refused("INVALID_ARGUMENT", code, re.escape(text)) as retry:
        rpc.ModelInfer(make(image))
    assert not retry


def test_an_unknown_model_or_version_is_not_found(rpc, client, image):
    with refused("NOT_FOUND", "unknown_model", "no model 'nobody'"):
        rpc.ModelInfer(ask([image], model="nobody"))
    sent = ask([image])
    sent.model_version = "7"
    with refused("NOT_FOUND", "unknown_model", "no version '7'"):
        rpc.ModelInfer(sent)
    with refused("NOT_FOUND", "unknown_model"):
        rpc.ModelInfer(ask([image], model=""))
    assert 'rejected_total{model="unknown",reason="unknown_model"}' in client.get("/metrics").text


def test_too_much_is_resource_exhausted(rpc, draw_image):
    with refused("RESOURCE_EXHAUSTED", "too_large", "9 images"):
        rpc.ModelInfer(ask([draw_image()] * 9))
    with refused("RESOURCE_EXHAUSTED", "too_large", "pixels"):
        rpc.ModelInfer(ask([draw_image("JPEG", size=(1500, 1500))[:200_000]]))
    with pytest.raises(grpc.RpcError) as error:  # gRPC's own answer
        rpc.ModelInfer(ask([bytes(2 << 20)]))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_failing_engine_is_internal(serve, image):
    with serve(grpc_port=0, self_test_interval_s=600) as client, connected(client) as rpc:
        model = client.app.state.registry.find("small")
        model.engine = Poisoned(model.engine, RuntimeError)
        with refused("INTERNAL", "engine_failed"):
            rpc.ModelInfer(ask(np.zeros((1, 32, 32, 3), np.uint8), raw=True))
        assert rpc.ModelInfer(ask([image])).outputs


def test_metrics_have_the_method_and_the_tables_status(client, rpc, image):
    rpc.ModelInfer(ask([image]))
    with refused("INVALID_ARGUMENT", "invalid_field"):
        rpc.ModelInfer(ask([image], sparsity="much"))
    text = client.get("/metrics").text
    for code in (200, 422):
        series = f'{{code="{code}",model="small",route="/inference.GRPCInferenceService/ModelInfer"}}'
        assert f"lccl_request_duration_seconds_count{series}" in text
    assert 'lccl_rejected_total{model="small",reason="invalid_field"}' in text
    assert 'lccl_stage_duration_seconds_count{model="small",stage="encode"}' in text


def test_compressed_messages_are_not_taken(rpc, image):
    with pytest.raises(grpc.RpcError) as error:
        rpc.ModelInfer(ask([image]), compression=grpc.Compression.Gzip)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def long(sent):
    """A message of which the parts are looked at before it is parsed."""
    return sent.SerializeToString() + ModelInferRequest(raw_input_contents=[bytes(1 << 17)]).SerializeToString()


def test_a_message_of_many_parts_is_refused_before_it_is_parsed(rpc):
    few = ModelInferRequest(model_name="small", inputs=[ModelInferRequest.InferInputTensor()] * (MAX_PARTS - 50))
    check_parts(long(few), 0)
    many = {
        "inputs": ModelInferRequest(inputs=[ModelInferRequest.InferInputTensor()] * (MAX_PARTS + 100)),
        "parameters": ask([b""], **{f"p{number}": 1 for number in range(MAX_PARTS + 100)}),
        "images": ask([b""] * (MAX_PARTS + 100)),
    }
    for sent in many.values():
        with refused_here("too_large", "parts"):
            check_parts(long(sent), 0)
    with refused("RESOURCE_EXHAUSTED", "too_large", "parts"):
        rpc.ModelInfer(long(many["inputs"]))


def test_numbers_that_would_grow_are_refused_before_they_are_parsed():
    shape, contents = ask([b""]), ask([b""])
    shape.inputs[0].shape.extend([1] * 1000)
    contents.inputs[0].contents.CopyFrom(InferTensorContents(int64_contents=[1] * 1000))
    for sent in (shape, contents):
        with refused_here("malformed"):
            check_parts(long(sent), 8)


@pytest.mark.parametrize("end", [b"\x07\x00", b"\x0a", b"\x0a\xff", b"\x80", b"\xff" * 11, b"\x09\x00"])
def test_what_is_no_message_is_malformed(end):
    with refused_here("malformed"):
        check_parts(long(ask([b""])) + end, 8)


@given(st.binary(max_size=60), st.integers(0, 1 << 17))
def test_whatever_comes_is_looked_at_or_refused(junk, at):
    whole = long(ask([b"image"], sparsity=0.3))
    damaged = whole[:at] + junk + whole[at:]
    with suppress(ServiceError):
        check_parts(damaged, 8)
