"""Asks a server with KServe's own client of gRPC, and prints what came back as JSON; run by that client's interpreter.

Standard input: {"address": …, "encoded": base64, "pixels": [32, 32, 3] integers}.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.infer_type import RequestedOutput

logging.disable()  # it logs the errors that it raises


def tensors(encoded, pixels):
    """One image in every form that a model takes, typed and raw."""
    values = {
        "image": np.array([encoded], dtype=np.object_),
        "pixels": np.array([pixels], dtype=np.uint8),
        "normalised": np.array([pixels], dtype=np.float32) / 64 - 2,
    }
    datatypes = {"image": "BYTES", "pixels": "UINT8", "normalised": "FP32"}
    for name, value in values.items():
        raw = InferInput(name, list(value.shape), datatypes[name], parameters={})
        raw.set_data_from_numpy(value)
        yield f"{name} raw", raw
        flat = [encoded] if name == "image" else value.ravel().tolist()
        yield f"{name} typed", InferInput(name, list(value.shape), datatypes[name], data=flat, parameters={})


async def ask(address, encoded, pixels):
    async def infer(tensor, model="small", headers=None, outputs=None, **parameters):
        request = InferRequest(model, [tensor], "a-7", parameters=parameters, request_outputs=outputs)
        answer = await client.infer(request, headers=headers)
        found = {output.name: output.as_numpy().tolist() for output in answer.outputs}
        point = answer.parameters["operating_point"].string_param
        return {"id": answer.id, "model": answer.model_name, "point": point, "outputs": found}

    async def refusal(awaited):
        try:
            await awaited
        except grpc.RpcError as error:
            return [error.code().name, error.details()]
        return None

    async with InferenceGRPCClient(address) as client:
        given = dict(tensors(encoded, pixels))
        image = given["image raw"]
        classified = [RequestedOutput("probabilities", {"classification": 3})]
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": await client.is_model_ready("small"),
            "nobody ready": await client.is_model_ready("nobody"),
            "answers": {name: await infer(tensor) for name, tensor in given.items()},
            "classified": await infer(image, outputs=classified),
            "by parameter": await infer(image, sparsity="0.4"),
            "by header": await infer(image, headers=(("x-lccl-sparsity", "0.4"),)),
            "unknown model": await refusal(infer(image, "nobody")),
            "bad wish": await refusal(infer(image, sparsity="0.9")),
        }


def texts(value):
    return value.decode() if isinstance(value, bytes) else str(value)


asked = json.load(sys.stdin)
found = asyncio.run(ask(asked["address"], base64.b64decode(asked["encoded"]), asked["pixels"]))
print(json.dumps(found, default=texts))
