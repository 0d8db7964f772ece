"""Asks for sparsities over HTTP, on test images, and compares what the service states with what it reaches.

    python -m benchmarks.stated_and_reached DATA [--model NAME] [--images N]

DATA is a data set with test images, as for ``lccl evaluate``.
"""

from __future__ import annotations

import argparse
import io
import math
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import results
from benchmarks.server import served
from lccl.calibration.intervals import Z_TWO_SIDED, wilson
from lccl.data import Split, load_dataset
from lccl.preprocessing import Preprocessing

PER_REQUEST = 50


def main() -> None:
    """Ask, compare, print a table, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="resnet20-cifar10")
    parser.add_argument("--images", type=int, default=0, help="how many test images; 0 takes all")
    options = parser.parse_args()
    with (
        served("--max-images", str(PER_REQUEST), "--request-timeout-s", "120") as base,
        httpx.Client(base_url=f"{base}/v1/models", timeout=180) as client,
    ):
        model = client.get(f"/{options.model}").json()
        size = model["input"]["width"]
        test = load_dataset(options.data, Preprocessing(size, size, (0.5,) * 3, (0.5,) * 3)).test
        order = np.random.default_rng(0).permutation(len(test))[: options.images or None]
        rows = [_row(client, options.model, test.subset(order), value) for value in _wishes(model)]
    _print(rows)
    figures = {"model": options.model, "digest": model["digest"], "images": len(order), "rows": rows}
    command = f"python -m benchmarks.stated_and_reached {options.data.name} --images {options.images}"
    print(results.write("stated_and_reached", command, figures))


def _wishes(model: dict[str, Any]) -> list[float]:
    """Nothing skipped that need not be, then every tenth within the range."""
    low, high = model["sparsity_range"]
    return [0.0, *(step / 10 for step in range(10) if low < step / 10 < high)]


def _row(client: httpx.Client, model: str, test: Split, sparsity: float) -> dict[str, Any]:
    right, ratios, point = 0, [], {}
    for start in track(range(0, len(test), PER_REQUEST), f"sparsity {sparsity:g}"):
        part = range(start, min(start + PER_REQUEST, len(test)))
        files = [("file", _encode(test.images[index])) for index in part]
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


def _encode(image: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, header_style="bold")
    for column in ("asked", "point", "skip stated", "reached", "accuracy stated", "reached", "z (|z| > 1.96 differs)"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            f"{row['asked']:g}", row["point"] or "between", f"{row['skip_stated']:.3f}", f"{row['skip_reached']:.3f}",
            f"{row['accuracy_stated']:.4f}", f"{row['accuracy_reached']:.4f}", f"{row['z']:+.2f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
