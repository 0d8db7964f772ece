"""Asks for sparsities over HTTP, on test images, and compares what the service states with what it reaches.

    python -m benchmarks.stated_and_reached DATA [--model NAME] [--images N] [--result NAME]

DATA is a data set with test images, as for ``lccl evaluate``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from rich.progress import track

from benchmarks import results
from benchmarks.faults.cases import encode
from benchmarks.server import MODELS, Server
from lccl.calibration.intervals import Z_TWO_SIDED, wilson
from lccl.data import Split, load_dataset
from lccl.data.images import FileImages
from lccl.preprocessing import Preprocessing

PER_REQUEST = 50


def main() -> None:
    """Ask, compare, print a table, write the result file."""
    options = results.command_line(
        __doc__,
        results.argument("data", type=Path),
        results.argument("--model", default="resnet20-cifar10"),
        results.argument("--images", type=int, default=0, help="how many test images; 0 takes all"),
        results.argument("--result", default="stated_and_reached", help="the result file's name"),
    ).parse_args()
    with (
        Server(
            "stated", "--models", str(MODELS), "--max-images", str(PER_REQUEST), "--request-timeout-s", "120"
        ) as server,
        httpx.Client(base_url=f"{server.base}/v1/models", timeout=180) as client,
    ):
        model = client.get(f"/{options.model}").json()
        size = model["input"]["width"]
        test = load_dataset(options.data, Preprocessing(size, size, (0.5,) * 3, (0.5,) * 3)).test
        order = np.random.default_rng(0).permutation(len(test))[: options.images or None]
        low, high = model["sparsity_range"]
        asked = [0.0, *(step / 10 for step in range(10) if low < step / 10 < high)]
        rows = [_row(client, options.model, test.subset(order), value) for value in asked]
    results.print_rows(rows, "stated and reached; z differs beyond ± 1.96")
    figures = {"model": options.model, "digest": model["digest"], "images": len(order), "rows": rows}
    print(results.write(options.result, figures))


def _encoded(test: Split, index: int) -> bytes:
    """A photograph's file as it is, so that the server decodes, cuts and scales it; a thumbnail as a PNG."""
    images = test.images
    if isinstance(images, FileImages):
        return images.files.read(int(images.numbers[index]))
    return encode(Image.fromarray(images[index]), "PNG")


def _row(client: httpx.Client, model: str, test: Split, sparsity: float) -> dict[str, Any]:
    right, ratios, point = 0, [], {}
    for start in track(range(0, len(test), PER_REQUEST), f"sparsity {sparsity:g}"):
        part = range(start, min(start + PER_REQUEST, len(test)))
        files = [("file", _encoded(test, index)) for index in part]
        answer = client.post(f"/{model}/classify", files=files, params={"sparsity": sparsity, "top_k": 1})
        answer.raise_for_status()
        point = answer.json()["operating_point"]
        for index, prediction in zip(part, answer.json()["predictions"], strict=True):
            right += prediction["classes"][0]["index"] == test.labels[index]
            ratios.append(prediction["skip_ratio"])
    reached, stated = right / len(test), point["expected_accuracy"]
    return {
        "asked": sparsity,
        "point": point["name"],
        "skip_stated": point["sparsity"],
        "skip_reached": float(np.mean(ratios)),
        "skip_spread": float(np.std(ratios)),
        "accuracy_stated": stated,
        "accuracy_reached": reached,
        "accuracy_interval": wilson(right, len(test)),
        "z": z_score(reached, len(test), stated, *point["accuracy_interval"]),
    }


def z_score(reached: float, images: int, stated: float, low: float, high: float) -> float:
    """How many standard errors, both samples' counted, the accuracy reached on ``images`` lies above the stated one."""
    error = math.hypot(math.sqrt(reached * (1 - reached) / images), (high - low) / (2 * Z_TWO_SIDED))
    return (reached - stated) / error


if __name__ == "__main__":
    main()
