"""Hostile requests of the Open Inference Protocol over a real socket."""

from __future__ import annotations

import base64
import json


def infer(client, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body)
    return client.post("/v2/models/small/infer", content=content, headers=headers)


def test_hostile_bodies_are_refused_and_the_next_is_served(client, draw_image):
    good = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(draw_image()).decode()]}
    size = "Inference-Header-Content-Length"
    assert infer(client, b"[" * 500_000).status_code == 413
    assert infer(client, b"[" * 5000).status_code == 400
    assert infer(client, b'{"inputs": [], "\\ud800": 1, "\\ud800": 2}').status_code == 422
    assert infer(client, {"inputs": [good | {"name": "\ud800"}]}).status_code == 400
    assert infer(client, {"inputs": [good], "parameters": {"\ud800": 1}}).status_code == 422
    assert infer(client, {"inputs": [good]}, **{size: "99999999"}).status_code == 400
    assert client.post(
        "/v2/models/small/infer", content=json.dumps({"inputs": [good]}), headers=[(size, "1"), (size, "2")]
    ).status_code == 400  # fmt: skip
    assert infer(client, {"inputs": [good], "id": "\ud800"}).status_code == 400
    assert infer(client, b"0" * (2 << 20)).status_code == 413
    assert infer(client, {"inputs": [good]}).json()["outputs"][2]["shape"] == [1]
