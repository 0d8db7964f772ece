"""The plain twin as peers host it: files for every runtime and precision, what they answer, and how often rightly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from benchmarks.serving.peers.model import BACKENDS, FILES, Settings
from lccl.bench.turns import AbsentError, check_logits
from lccl.bench.twins import FromPixels, export_onnx, installed, quantise_onnx, quantise_open_vino
from lccl.bundle.format import Bundle
from lccl.data.splits import Split
from lccl.networks import ResNet

BATCH = 32
DENSE = tuple(product(("openvino", "onnxruntime"), ("int8", "fp32")))  # runtimes people use, in precisions they have
Pixels = NDArray[np.uint8]
Predict = Callable[[Pixels], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What a variant of the twin answers.

    Attributes:
        probabilities: float32 [P, classes], for each of the images that servers are asked about.
        accuracy: on the data set's test images; None where there are none, or the twin was not trained as such.

    """

    probabilities: NDArray[np.float32]
    accuracy: float | None


def key(backend: str, precision: str) -> str:
    """What a variant is called; in fp32 all runtimes answer alike."""
    return precision if precision == "fp32" else f"{backend} {precision}"


def whole(name: str) -> str:
    """What the answers of a variant are called where its JPEGs are decoded whole."""
    return f"{name} whole"


def write(folder: Path, twin: ResNet, bundle: Bundle, calibration: Pixels) -> dict[str, str]:
    """Write the twin's files, and say which ones are not to be had and why.

    These are an ONNX file that starts from pixels, for batches of any size, its weights, what describes them, and the
    network as OpenVINO and ONNX Runtime quantise it.

    Args:
        calibration: uint8 [N, H, W, 3], what values are ranged on.

    """
    size, onnx = bundle.preprocessing.size, folder / "twin.onnx"
    module = FromPixels(twin, bundle.preprocessing)
    export_onnx(module, torch.zeros((2, size, size, 3), dtype=torch.uint8), onnx, any_batch=True)
    save_file({name: value.contiguous() for name, value in twin.state_dict().items()}, folder / "twin.safetensors")
    described = {
        "architecture": bundle.architecture.plain_twin.to_json(),
        "preprocessing": bundle.preprocessing.to_json(),
        "labels": list(bundle.labels),
    }
    (folder / "twin.json").write_text(json.dumps(described), encoding="utf-8")
    batches = np.split(calibration, range(BATCH, len(calibration), BATCH))
    absent = {}
    for (backend, precision), name in FILES.items():
        try:
            if backend == "onnxruntime":
                quantise_onnx(onnx, batches, folder / name)
            else:
                model = quantise_open_vino(onnx, batches)
                installed("openvino").save_model(model, str(folder / name), compress_to_fp16=False)
        except AbsentError as error:
            absent[key(backend, precision)] = str(error)
    return absent


def answer(folder: Path, twin: ResNet, bundle: Bundle, inputs: Pixels, test: Split | None) -> dict[str, Answers]:
    """What all variants whose files were written answer, by :func:`key`: fp32 by PyTorch, int8 by its own runtime.

    Args:
        inputs: uint8 [P, H, W, 3].
        test: to find accuracies on.

    Raises:
        AbsentError: int8 answers something else than fp32.

    """
    module = FromPixels(twin, bundle.preprocessing)

    def by_torch(pixels: Pixels) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = module(torch.from_numpy(pixels)).numpy()
        return logits

    predicts: dict[str, Predict] = {"fp32": by_torch}
    for (backend, precision), name in FILES.items():
        if (folder / name).exists():
            settings = Settings(str(folder), "", "", 0, backend, precision, threads=1)
            predicts[key(backend, precision)] = BACKENDS[backend](settings, {})
    found, floating = {}, by_torch(inputs)
    for name, predict in predicts.items():
        logits = predict(inputs)
        check_logits(logits, floating, name.rpartition(" ")[2])
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        accuracy = None if test is None else _accuracy(predict, test)
        found[name] = Answers(weights / weights.sum(axis=1, keepdims=True), accuracy)
    return found


def _accuracy(predict: Predict, test: Split) -> float:
    right = [predict(images).argmax(axis=1) == labels for images, labels in test.batches(BATCH)]
    return float(np.concatenate(right).mean())
