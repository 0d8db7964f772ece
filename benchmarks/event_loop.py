"""How long one body of up to 15 MB holds the event loop up: JSON, forms, raw, Open Inference in JSON and in binary.

    python -m benchmarks.event_loop [--runs N] [--only TEXT]

A server with the default limits gets each body ``--runs`` times, nothing else beside it; a task of its event loop that
sleeps for a millisecond again and again measures the longest time between two awakenings (the gap), and the most
processor time that the loop's thread used between two (the work), which other processes do not change. Beside images
there are the bodies that a parser finds hardest: deep nesting, many names, many short texts, escapes, no UTF-8.
"""

from __future__ import annotations

import base64
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import results
from benchmarks.faults.cases import encode
from benchmarks.loop_probe import PATH
from benchmarks.server import HOME, Server

MB = 1 << 20
BOUND_MS = 15.0
V1, V2 = "/v1/classify", "/v2/models/{model}/infer"
JSON, RAW = {"Content-Type": "application/json"}, {"Content-Type": "image/png"}
FORM = {"Content-Type": "multipart/form-data; boundary=XX"}
JSON_SIZE = "Inference-Header-Content-Length"

Case = tuple[str, str, bytes, dict[str, str]]  # name, path, body, headers


def main() -> None:
    """Measure, print a table, write the result file."""
    options = results.command_line(
        __doc__,
        results.argument("--runs", type=int, default=7),
        results.argument("--only", default="", help="bodies whose names have this in them; nothing is written"),
    ).parse_args()
    with (
        Server("event-loop", program=("-m", "benchmarks.loop_probe")) as server,
        httpx.Client(base_url=server.base, timeout=60) as client,
    ):
        client.get(PATH)
        model = client.get("/v1/models").json()["models"][0]
        cases = (one for one in bodies(model["name"], model["input"]["width"]) if options.only in one[0])
        rows = [measure(client, case, options.runs) for case in (("nothing", "", b"", {}), *cases)]
    results.print_rows(rows, f"longest gap in the event loop; at most {BOUND_MS:g} ms are wanted")
    if not options.only:
        figures = {"bound_ms": BOUND_MS, "runs": options.runs, "rows": rows}
        print(results.write("event_loop", figures))


def measure(client: httpx.Client, case: Case, runs: int) -> dict[str, Any]:
    """Send a body several times: gaps and work while it was answered, in milliseconds."""
    name, path, body, headers = case
    gaps, work, took, status = [], [], [], 0
    for _ in range(runs):
        time.sleep(0.05)  # what is left to do of the last one is done
        client.get(PATH)
        began = time.perf_counter()
        if path:
            status = client.post(path, content=body, headers=headers).status_code
        took.append(1000 * (time.perf_counter() - began))
        told = client.get(PATH).json()
        gaps.append(told["gap_ms"])
        work.append(told["work_ms"])
    return {
        "body": name,
        "mb": round(len(body) / MB, 2),
        "status": status,
        "gap_ms": round(statistics.median(gaps), 2),
        "worst_gap_ms": round(max(gaps), 2),
        "work_ms": round(statistics.median(work), 2),
        "worst_work_ms": round(max(work), 2),
        "answered_ms": round(statistics.median(took), 1),
    }


def bodies(model: str, size: int, total: int = 15 * MB) -> Iterator[Case]:
    """Bodies of about ``total`` bytes, the largest that one kind of request can have or a parser can be given.

    Args:
        size: of the model's input.

    """
    noise = np.random.default_rng(0).bytes(total)
    photo = (HOME / "docs" / "example.png").read_bytes()
    yield "raw, no image", V1, noise, RAW
    yield "raw PNG with a long chunk", V1, _long_png(photo, noise), RAW
    yield from ((f"{name}, 25 million pixels", V1, body, RAW) for name, body in _large_images(total))
    yield from ((f"form, {name}", V1, body, FORM) for name, body in _forms(noise, photo))
    yield from ((f"JSON, {name}", V1, body, JSON) for name, body in _jsons(noise, photo))
    path = V2.format(model=model)
    yield from ((f"Open Inference JSON, {name}", path, body, {}) for name, body in _tensors(noise, photo, size))
    yield from ((f"Open Inference binary, {name}", path, *one) for name, one in _binaries(noise, photo, size))


def _long_png(photo: bytes, noise: bytes) -> bytes:
    size = len(noise).to_bytes(4, "big")
    return photo[:33] + size + b"teXt" + noise + bytes(4) + photo[33:]


def _large_images(total: int) -> Iterator[tuple[str, bytes]]:
    """Of ``total`` bytes as few as they take; smaller totals have smaller images."""
    side = 5000 * total // (15 * MB)
    colour = Image.fromarray(np.random.default_rng(3).integers(0, 256, (250, 250, 3), dtype=np.uint8))
    smooth, flat = colour.resize((side, side)), Image.new("RGB", (side, side), (200, 30, 99))
    yield "JPEG", encode(smooth, "JPEG")
    yield "PNG", encode(flat, "PNG")
    yield "PNG with alpha", encode(flat.convert("RGBA"), "PNG")
    yield "PNG with a palette", encode(flat.convert("P"), "PNG")
    yield "PNG of 16 bits", encode(Image.new("I;16", (side, side), 3000), "PNG")
    yield "GIF", encode(flat.convert("P"), "GIF")
    yield "WebP", encode(flat, "WEBP")


def _forms(noise: bytes, photo: bytes) -> Iterator[tuple[str, bytes]]:
    def form(*files: bytes) -> bytes:
        head = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        return b"".join(head + file + b"\r\n" for file in files) + b"--XX--\r\n"

    total = len(noise)
    yield "one file", form(noise)
    yield "64 files", form(*(photo + noise[: total // 64] for _ in range(64)))
    yield "ends early", form(noise)[:-6]
    yield "false boundaries", form(b"\r\n--XXy" * (total // 7))
    yield "almost boundaries", form(b"\r\n--X" * (total // 5))
    yield "text before it", b"\r\n" + b"x" * total


def _jsons(noise: bytes, photo: bytes) -> Iterator[tuple[str, bytes]]:
    total, text = len(noise), base64.b64encode(noise[: len(noise) * 3 // 4])
    one = base64.b64encode(photo + noise[: total // 64 * 3 // 4 - len(photo)])
    yield "one image", b'{"image":"' + text + b'"}'
    yield "64 images", b'{"images":["' + b'","'.join([one] * 64) + b'"]}'
    yield "every digit escaped", b'{"image":"' + b"\\u002b" * (total // 24 * 4) + b'"}'
    yield "short texts", b'{"images":["' + b'","'.join([b"YQ=="] * (total // 7)) + b'"]}'
    yield "names", b"{" + b",".join(b'"%d":1' % number for number in range(total // 11)) + b"}"
    yield "one name", b"{" + b",".join([b'"a":1'] * (total // 6)) + b"}"
    yield "nested objects", b'{"a":' * (total // 5)
    yield "brackets", b"[" * total
    yield "blanks", b" " * total + b"{}"
    yield "digits", b'{"top_k":' + b"9" * total + b"}"
    yield "escaped quotation marks", b'{"image":"' + b'\\"' * (total // 2) + b'"}'
    yield "backslashes", b'{"image":"' + b"\\\\" * (total // 2) + b'"}'
    yield "no UTF-8", b'{"image":"' + b"\xff" * total + b'"}'
    yield "unicode", b'{"image":"' + "é🚢".encode() * (total // 6) + b'"}'
    yield "as many short texts as are parsed", b'{"images":["' + b'","'.join([b"Y"] * 14_000) + b'"]}' + b" " * 11_000


def _tensors(noise: bytes, photo: bytes, size: int) -> Iterator[tuple[str, bytes]]:
    def request(name: str, datatype: str, shape: tuple[int, ...], data: bytes) -> bytes:
        tensor = {"name": name, "datatype": datatype, "shape": shape, "data": "@"}
        return json.dumps({"inputs": [tensor]}).encode().replace(b'"@"', data)

    def dump(values: NDArray[Any]) -> bytes:
        return json.dumps(values.tolist()).encode()

    total, shape = len(noise), (64, size, size, 3)
    count = 64 * size * size * 3
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    normalised = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    text = base64.b64encode(noise[: total * 3 // 4])
    one = base64.b64encode(photo + noise[: total // 64 * 3 // 4 - len(photo)])
    padded = dump(normalised).replace(b",", b"," + b" " * max(0, (total - len(dump(normalised))) // count))
    yield "one image", request("image", "BYTES", (1,), b'["' + text + b'"]')
    yield "64 images", request("image", "BYTES", (64,), b'["' + b'","'.join([one] * 64) + b'"]')
    yield "64 × UINT8, nested", request("pixels", "UINT8", shape, dump(pixels))
    yield "64 × UINT8, flat", request("pixels", "UINT8", shape, dump(pixels.ravel()))
    yield "64 × FP32, nested", request("normalised", "FP32", shape, dump(normalised))
    yield "64 × FP32, with blanks", request("normalised", "FP32", shape, padded)
    yield "zeros", request("normalised", "FP32", shape, b"[" + b"0," * (total // 2) + b"0]")
    yield "short texts", request("image", "BYTES", (64,), b'["' + b'","'.join([b"YQ=="] * (total // 7)) + b'"]')
    yield "objects", request("image", "BYTES", (64,), b"[" + b",".join([b"{}"] * (total // 3)) + b"]")


def _binaries(noise: bytes, photo: bytes, size: int) -> Iterator[tuple[str, tuple[bytes, dict[str, str]]]]:
    def request(name: str, datatype: str, shape: tuple[int, ...], content: bytes) -> tuple[bytes, dict[str, str]]:
        parameters = {"binary_data_size": len(content)}
        tensor = {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}
        head = json.dumps({"inputs": [tensor]}).encode()
        return head + content, {JSON_SIZE: str(len(head))}

    def elements(*contents: bytes) -> bytes:
        return b"".join(len(content).to_bytes(4, "little") + content for content in contents)

    shape = (64, size, size, 3)
    normalised = np.random.default_rng(2).normal(size=shape).astype("<f4")
    yield "one image", request("image", "BYTES", (1,), elements(noise))
    yield "64 images", request("image", "BYTES", (64,), elements(*[photo + noise[: len(noise) // 64]] * 64))
    yield "64 × UINT8", request("pixels", "UINT8", shape, noise[: normalised.size])
    yield "64 × FP32", request("normalised", "FP32", shape, normalised.tobytes())


if __name__ == "__main__":
    main()
