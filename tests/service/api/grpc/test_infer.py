"""Inference over gRPC: every form of a request gets the answer that the same request gets over HTTP."""

from __future__ import annotations

import asyncio
import re

import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http

from lccl.preprocessing import Preprocessing
from service.api.grpc.calls import SERVICE
from service.api.grpc.messages import ModelInferRequest, ModelInferResponse
from service.inference.decode import decode
from tests.service.api.grpc.conftest import address_of, ask, values

PREPROCESSING = Preprocessing(32, 32, (0.5, 0.5, 0.4), (0.25, 0.2, 0.3))  # of the test models
OUTPUTS = ["logits", "probabilities", "index", "label", "skip_ratio", "macs"]


@pytest.fixture(scope="module")
def encoded(draw_image):
    return [draw_image(seed=seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def forms(encoded):
    pixels = np.stack([decode(one, PREPROCESSING, 10**6) for one in encoded])
    mean, deviation = np.array(PREPROCESSING.mean), np.array(PREPROCESSING.std)
    normalised = ((pixels / 255 - mean) / deviation).astype(np.float32)
    return {"image": encoded, "pixels": pixels, "normalised": normalised}


def over_http(client, name, value, **parameters):
    connected = triton_http.InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}")
    tensor = np.array(value, dtype=object) if isinstance(value, list) else value
    datatype = {"image": "BYTES", "pixels": "UINT8", "normalised": "FP32"}[name]
    given = triton_http.InferInput(name, list(tensor.shape), datatype).set_data_from_numpy(tensor)
    with connected:
        return connected.infer("small", [given], parameters=parameters)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("name", ["image", "pixels", "normalised"])
def test_every_form_is_answered_as_over_http_bit_for_bit(client, rpc, forms, name, raw):
    answer = rpc.ModelInfer(ask(forms[name], raw=raw, sparsity=0.3))
    same = over_http(client, name, forms[name], sparsity=0.3)
    assert [output.name for output in answer.outputs] == OUTPUTS
    assert bool(answer.raw_output_contents) == raw
    found = values(answer)
    for output in OUTPUTS:
        expected = same.as_numpy(output)
        if output == "label":
            assert found[output] == list(expected)
        else:
            np.testing.assert_array_equal(found[output], expected)
            assert found[output].dtype == expected.dtype
    told = {name: getattr(one, one.WhichOneof("parameter_choice")) for name, one in answer.parameters.items()}
    assert told == same.get_response()["parameters"]


def test_an_answer_names_what_it_is_of(rpc, encoded):
    sent = ask(encoded[:1])
    sent.id, sent.model_version = "a-7", "1"
    answer, call = rpc.ModelInfer.with_call(sent, metadata=[("x-request-id", "r-1")])
    assert (answer.model_name, answer.model_version, answer.id) == ("small", "1", "a-7")
    assert dict(call.trailing_metadata())["x-request-id"] == "r-1"


def test_outputs_are_those_asked_for_in_their_order(rpc, encoded):
    answer = rpc.ModelInfer(ask(encoded, raw=True, outputs=["macs", "label"]))
    assert [(one.name, one.datatype, list(one.shape)) for one in answer.outputs] == [
        ("macs", "INT64", [3, 3]), ("label", "BYTES", [3]),
    ]  # fmt: skip
    assert len(answer.raw_output_contents) == 2


def test_the_form_of_the_answer_can_be_asked_for(rpc, encoded):
    assert rpc.ModelInfer(ask(encoded, binary_data_output=True)).raw_output_contents
    assert not rpc.ModelInfer(ask(encoded, raw=True, binary_data_output=False)).raw_output_contents


def test_long_typed_tensors_are_read_in_slices(rpc, forms):
    pixels = np.concatenate([forms["pixels"]] * 2)  # 18,432 numbers, of which none may be lost between two slices
    normalised = np.repeat(forms["normalised"], 3, axis=0)[:8]
    for images in (pixels, normalised):
        typed, raw = values(rpc.ModelInfer(ask(images))), values(rpc.ModelInfer(ask(images, raw=True)))
        np.testing.assert_array_equal(typed["logits"], raw["logits"])


@pytest.mark.parametrize(
    "quality", [{"sparsity": 0.25}, {"sparsity": "0.25"}, {"operating_point": "p25"}, {"max_accuracy_drop": 3}]
)
def test_quality_is_a_parameter_or_metadata(rpc, encoded, quality):
    by_parameter = rpc.ModelInfer(ask(encoded[:1], **quality))
    ((name, value),) = quality.items()
    metadata = [(f"x-lccl-{name.replace('_', '-')}", str(value))]
    by_metadata = rpc.ModelInfer(ask(encoded[:1]), metadata=metadata)
    for answer in (by_parameter, by_metadata):
        assert answer.parameters["operating_point"].string_param == "p25"


def test_tritons_client_gets_labels_and_classes(asked, encoded):
    given = triton.InferInput("image", [3], "BYTES").set_data_from_numpy(np.array(encoded, dtype=object))
    wanted = [triton.InferRequestedOutput("probabilities", class_count=2), triton.InferRequestedOutput("label")]
    answer = asked.infer("small", [given], outputs=wanted, parameters={"operating_point": "p40"}, request_id="7")
    assert answer.get_response().id == "7"
    best = answer.as_numpy("probabilities")
    assert best.shape == (3, 2)
    for row, label in zip(best, answer.as_numpy("label"), strict=True):
        assert re.fullmatch(rb"0\.\d+:\d:" + label, row[0])


def test_calls_of_one_channel_and_http_share_batches(client, rpc, encoded):
    engine = client.app.state.registry.find("small").engine
    sizes, run = [], engine.run

    def note(images, options, **how):
        sizes.append(len(images))
        return run(images, options, **how)

    engine.run = note
    try:
        pending = [rpc.ModelInfer.future(ask(encoded)) for _ in range(16)]
        over = [client.post("/v1/classify", content=encoded[0], headers={"Content-Type": "image/png"})]
        assert all(values(one.result())["label"] == values(pending[0].result())["label"] for one in pending)
        assert over[0].status_code == 200
    finally:
        engine.run = run
    assert sum(sizes) >= 49
    assert len(sizes) < 49


def test_an_asynchronous_client_with_own_stubs(client, encoded):
    async def main():
        async with grpc.aio.insecure_channel(address_of(client)) as channel:
            infer = channel.unary_unary(
                f"/{SERVICE}/ModelInfer", ModelInferRequest.SerializeToString, ModelInferResponse.FromString
            )
            return await asyncio.gather(*(infer(ask(encoded[:1], raw=True)) for _ in range(20)))

    answers = asyncio.run(main())
    assert len({answer.raw_output_contents[0] for answer in answers}) == 1
