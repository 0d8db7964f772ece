"""Latency and throughput of the shipped model over HTTP, by operating point; pictures drawn here.

python -m benchmarks.serving [--requests N] [--clients N]
"""

from __future__ import annotations

import argparse
import io
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.server import served

QUANTILES = (0.2, 0.5, 0.8, 0.99)


def main() -> None:
    """Ask one at a time and with several clients, print a table, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    pictures = [_picture(seed) for seed in range(16)]
    rows = []
    with served() as base:
        points = httpx.get(f"{base}/v1/models").json()["models"][0]["operating_points"]
        wanted = [points[0], points[len(points) // 2], points[-1]]
        for clients in (1, options.clients):
            rows += [_row(base, point["name"], pictures, options.requests, clients) for point in wanted]
    _print(rows)
    command = f"python -m benchmarks.serving --requests {options.requests} --clients {options.clients}"
    print(results.write("serving", command, {"rows": rows}))


def _row(base: str, point: str, pictures: list[bytes], requests: int, clients: int) -> dict[str, Any]:
    def ask(numbers: range) -> list[float]:
        seconds = []
        with httpx.Client(base_url=base, timeout=60) as client:
            for number in numbers:
                started = time.perf_counter()
                answer = client.post(
                    "/v1/classify", content=pictures[number % len(pictures)], params={"operating_point": point}
                )
                answer.raise_for_status()
                seconds.append(time.perf_counter() - started)
        return seconds

    ask(range(20))
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(ask, [range(first, requests, clients) for first in range(clients)]))
    elapsed = time.perf_counter() - started
    milliseconds = 1000 * np.concatenate([np.array(part) for part in found])
    quantiles = {f"p{100 * q:.0f}_ms": round(float(np.quantile(milliseconds, q)), 2) for q in QUANTILES}
    return {"point": point, "clients": clients, **quantiles, "requests_per_s": round(requests / elapsed, 1)}


def _picture(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table(*rows[0], box=None, header_style="bold")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
