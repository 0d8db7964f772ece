"""Asks a server with KServe's own client, and prints what came back as JSON; run by that client's interpreter.

Standard input: {"url": …, "encoded": base64, "pixels": [32, 32, 3] integers}.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def tensors(encoded, pixels):
    """One image in every form that a model takes, in JSON and in binary."""
    values = {
        "image": np.array([encoded], dtype=np.object_),
        "pixels": np.array([pixels], dtype=np.uint8),
        "normalised": np.array([pixels], dtype=np.float32) / 64 - 2,
    }
    datatypes = {"image": "BYTES", "pixels": "UINT8", "normalised": "FP32"}
    for name, value in values.items():
        binary = InferInput(name, list(value.shape), datatypes[name], parameters={})
        binary.set_data_from_numpy(value)
        yield f"{name} binary", binary
        flat = [base64.b64encode(encoded).decode()] if name == "image" else value.ravel().tolist()
        yield f"{name} json", InferInput(name, list(value.shape), datatypes[name], data=flat, parameters={})


async def ask(url, encoded, pixels):
    async def infer(tensor, model="small", headers=None, outputs=None, **parameters):
        request = InferRequest(model, [tensor], "a-7", parameters=parameters, request_outputs=outputs)
        answer = await client.infer(url, request, model, headers=headers)
        found = {output.name: output.as_numpy().tolist() for output in answer.outputs}
        return {"id": answer.id, "model": answer.model_name, "parameters": answer.parameters, "outputs": found}

    async def refusal(awaited):
        try:
            await awaited
        except httpx.HTTPStatusError as error:
            return [error.response.status_code, str(error)]
        return None

    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        given = dict(tensors(encoded, pixels))
        image = given["image binary"]
        binary = [RequestedOutput(name, {"binary_data": True}) for name in ("probabilities", "label", "macs")]
        classified = [RequestedOutput("probabilities", {"classification": 3})]
        return {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model ready": await client.is_model_ready(url, "small"),
            "nobody ready": await client.is_model_ready(url, "nobody"),
            "answers": {name: await infer(tensor) for name, tensor in given.items()},
            "binary outputs": await infer(image, outputs=binary),
            "classified": await infer(image, outputs=classified),
            "by parameter": await infer(image, sparsity=0.4),
            "by header": await infer(image, headers={"X-LCCL-Sparsity": "0.4"}),
            "unknown model": await refusal(infer(image, "nobody")),
            "bad wish": await refusal(infer(image, sparsity=0.9)),
        }


asked = json.load(sys.stdin)
print(json.dumps(asyncio.run(ask(asked["url"], base64.b64decode(asked["encoded"]), asked["pixels"]))))
