"""A served instance with its port of gRPC, and calls by the service's own messages over a real channel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from service.api.grpc import messages
from service.api.grpc.calls import SERVICE
from tests.service.conftest import serve as serve_http


class Rpc:
    """Calls over one channel; ``rpc.ModelInfer(request)`` is the answer, and raises what gRPC raises."""

    def __init__(self, address, credentials=None, options=()):
        self.address = address
        self.channel = (
            grpc.secure_channel(address, credentials, options)
            if credentials
            else grpc.insecure_channel(address, options)
        )

    def __getattr__(self, name):
        method = messages.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[name]
        return self.channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=lambda sent: sent if isinstance(sent, bytes) else sent.SerializeToString(),
            response_deserializer=getattr(messages, method.output_type.name).FromString,
        )

    def close(self):
        self.channel.close()


def address_of(client: httpx.Client) -> str:
    return f"127.0.0.1:{client.app.state.grpc.port}"


@contextmanager
def connected(client: httpx.Client, **options) -> Iterator[Rpc]:
    rpc = Rpc(address_of(client), **options)
    try:
        yield rpc
    finally:
        rpc.close()


@contextmanager
def refused(status: str, code: str, match: str | None = None) -> Iterator[list[float]]:
    """Expects that status and, in its details, that code; the list gets the seconds after which to try again."""
    after: list[float] = []
    with pytest.raises(grpc.RpcError, match=match) as caught:
        yield after
    error = caught.value
    assert error.code() is grpc.StatusCode[status], error.details()
    details = {one.type_url.rpartition(".")[2]: one for one in rpc_status.from_call(error).details}
    info, retry = ErrorInfo(), RetryInfo()
    details["ErrorInfo"].Unpack(info)
    assert (info.reason, info.domain) == (code.upper(), "lccl")
    if "RetryInfo" in details:
        details["RetryInfo"].Unpack(retry)
        after.append(retry.retry_delay.seconds)


def parameter(value):
    kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
    return messages.InferParameter(**{kind: value})


def ask(images, *, raw=False, model="small", outputs=(), **parameters):
    """A request for encoded images, or for an array of pixels or normalised numbers."""
    sent = messages.ModelInferRequest(model_name=model)
    for name, value in parameters.items():
        sent.parameters[name].CopyFrom(parameter(value))
    for name in outputs:
        sent.outputs.add(name=name)
    encoded = isinstance(images, list)
    name, datatype, shape = ("image", "BYTES", [len(images)]) if encoded else NUMBERS[images.dtype.name](images)
    given = sent.inputs.add(name=name, datatype=datatype, shape=shape)
    if raw:
        pieces = [len(one).to_bytes(4, "little") + one for one in images] if encoded else [images.tobytes()]
        sent.raw_input_contents.append(b"".join(pieces))
    elif encoded:
        given.contents.bytes_contents.extend(images)
    else:
        values = given.contents.uint_contents if datatype == "UINT8" else given.contents.fp32_contents
        values.extend(images.ravel().tolist())
    return sent


NUMBERS = {
    "uint8": lambda images: ("pixels", "UINT8", images.shape),
    "float32": lambda images: ("normalised", "FP32", images.shape),
}


def values(answer):
    """The outputs of an answer by name, in whichever form they came."""
    told = {}
    for number, output in enumerate(answer.outputs):
        raw = answer.raw_output_contents[number] if answer.raw_output_contents else None
        told[output.name] = _value(output, raw)
    return told


def _value(output, raw):
    if output.datatype == "BYTES":
        return list(output.contents.bytes_contents) if raw is None else _elements(raw)
    kind, values = {
        "FP32": (np.float32, output.contents.fp32_contents), "INT64": (np.int64, output.contents.int64_contents),
    }[output.datatype]  # fmt: skip
    flat = np.array(values, kind) if raw is None else np.frombuffer(raw, kind)
    return flat.reshape(list(output.shape))


def _elements(raw):
    found = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        found.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    return found


@pytest.fixture(scope="session")
def client(models_folder):
    """The test models served over both protocols with small limits, shared by all tests of gRPC."""
    limits = {"max_body_bytes": 1 << 20, "max_pixels": 1_000_000, "max_images": 8}
    with serve_http(models=models_folder, grpc_port=0, self_test_interval_s=600, **limits) as client:
        yield client


@pytest.fixture(scope="session")
def rpc(client):
    with connected(client) as rpc:
        yield rpc


@pytest.fixture(scope="session")
def asked(client):
    """Triton's client of gRPC, connected to the shared server."""
    with triton.InferenceServerClient(address_of(client)) as connected:
        yield connected
