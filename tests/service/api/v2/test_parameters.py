"""Parameters that other servers' clients send: Triton's timeout limits a request, others are ignored."""

from __future__ import annotations

import asyncio
import base64
import json
import math

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from service.api.turns import LoopTurns
from service.api.v2.requests import read_request
from service.api.v2.tensors import Interface
from tests.service.refusals import refused

WITHOUT_MEANING = {
    "priority": 3, "sequence_id": "a", "sequence_start": True, "sequence_end": False, "content_type": "np",
}  # fmt: skip


def read(parameters, of_input=None, of_output=None):
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(b"image").decode()]}
    request = {
        "parameters": parameters, "inputs": [image | {"parameters": of_input or {}}],
        "outputs": [{"name": "index", "parameters": of_output or {}}],
    }  # fmt: skip
    body = json.dumps(request).encode()
    return asyncio.run(read_request(body, len(body), Interface.of(4, 5, 3), 8, LoopTurns()))


def test_what_means_nothing_here_is_ignored_and_changes_no_quality():
    asked = read(WITHOUT_MEANING, {"content_type": "base64"}, {"content_type": "np"})
    assert (asked.images, asked.quality, asked.limit_s) == ([b"image"], {}, math.inf)


@pytest.mark.parametrize(("timeout", "seconds"), [(1_500_000, 1.5), (1, 1e-6), (0, math.inf)])
def test_a_timeout_is_in_microseconds_and_0_is_none(timeout, seconds):
    assert read({"timeout": timeout}).limit_s == seconds
    assert read({"timeout": 10**400}).limit_s > 1e6


@pytest.mark.parametrize("timeout", [-1, 1.5, True, "1"])
def test_a_timeout_is_a_whole_number(timeout):
    with refused("invalid_field", "whole number of microseconds"):
        read({"timeout": timeout})


@pytest.mark.parametrize("name", ["time_out", "Priority", "sequence", "headers"])
def test_other_parameters_are_errors(name):
    with refused("invalid_field", f"unknown parameter '{name}'"):
        read({name: 1})
    with refused("invalid_field", "unknown parameter 'timeout'"):
        read({}, {"timeout": 1})


def test_a_request_that_cannot_be_answered_within_its_timeout_is_504_and_no_quality_is_lowered(client, draw_image):
    image = triton.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([draw_image()], dtype=np.object_))
    with triton.InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}") as asked:
        for timeout in (None, 0, 20_000_000):
            answer = asked.infer("small", [image], timeout=timeout, priority=2, sequence_id=7, sequence_start=True)
            assert answer.get_response()["parameters"]["operating_point"] == "exact"
        with pytest.raises(InferenceServerException, match="after its deadline") as late:
            asked.infer("small", [image], timeout=1)
        assert late.value.status() == "504"


def test_a_float_tensor_without_a_finite_answer_is_the_clients_fault(client):
    huge = triton.InferInput("normalised", [1, 32, 32, 3], "FP32")
    huge.set_data_from_numpy(np.full((1, 32, 32, 3), 1e38, np.float32))
    with triton.InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}") as asked:
        with pytest.raises(InferenceServerException, match="no finite answer") as failed:
            asked.infer("small", [huge])
        assert failed.value.status() == "422"
