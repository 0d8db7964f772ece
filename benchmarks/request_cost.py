"""What a request costs the server beside the engine: microseconds of processor time, by protocol and connections.

    python -m benchmarks.request_cost [--rounds N] [--requests N] [--cores SERVER CLIENT] [--only TEXT]

A server with everything on (an API key and a rate, metrics, a line in the log for each request) answers small JPEGs for
``resnet20-cifar10`` at sparsity 0.5. The client keeps a number of connections busy, from a core of its own. Each row
has the median of ``--rounds`` rounds; its parts are of the event loop's thread, but for the last two.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from benchmarks import results
from benchmarks.cost_probe import ENGINE, PARTS, PATH
from benchmarks.server import Server

MODEL = "resnet20-cifar10"
KEY = "a key that nobody guesses"
CONNECTIONS = (1, 32)
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
GOALS_US = {"v1 raw": 180, "v1 JSON": 220, "v1 form": 220, "Open Inference binary": 220}  # with 32 connections
GOAL_ALONE_US = 260  # one at a time


def main() -> None:
    """Measure, print a table, write the result file."""
    options = results.command_line(
        __doc__,
        results.argument("--rounds", type=int, default=7),
        results.argument("--requests", type=int, default=1280, help="of each round"),
        results.argument("--cores", type=int, nargs=2, default=(0, 1)),
        results.argument("--only", default="", help="kinds whose names have this in them; nothing is written"),
    ).parse_args()
    os.sched_setaffinity(0, {options.cores[1]})
    flags = ("--default-model", MODEL, "--compute-threads", "1", "--api-key", KEY, "--rate-limit", "1000000/second")
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(folder, "log").open("wb") as log,
        Server("cost", "--log-level", "info", *flags, program=("-m", "benchmarks.cost_probe"), stdout=log) as server,
    ):
        _pin(server.process.pid, options.cores[0])
        rows = [
            _measure(server, kind, request, connections, options.rounds, options.requests)
            for kind, request in requests().items()
            for connections in CONNECTIONS
            if options.only in kind
        ]
    results.print_rows(rows, "processor time in the server, µs a request")
    if not options.only:
        print(results.write("request_cost", {"goals_us": GOALS_US, "goal_alone_us": GOAL_ALONE_US, "rows": rows}))


def requests() -> dict[str, bytes]:
    """A request of each kind."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((32, 32)).save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    form = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + jpeg + b"\r\n--XX--\r\n"
    element = len(jpeg).to_bytes(4, "little") + jpeg
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(element)}}
    head = json.dumps(
        {"inputs": [tensor], "parameters": {"sparsity": 0.5}, "outputs": [{"name": "label"}, {"name": "probabilities"}]}
    ).encode()
    sized = {"Inference-Header-Content-Length": str(len(head))}
    v1 = "/v1/classify"
    return {
        "v1 raw": _request(f"{v1}?sparsity=0.5", "image/jpeg", jpeg),
        "v1 JSON": _request(
            v1, "application/json", json.dumps({"image": base64.b64encode(jpeg).decode(), "sparsity": 0.5}).encode()
        ),
        "v1 form": _request(f"{v1}?sparsity=0.5", "multipart/form-data; boundary=XX", form),
        "Open Inference binary": _request(
            f"/v2/models/{MODEL}/infer", "application/octet-stream", head + element, sized
        ),
    }


def _request(path: str, content_type: str, body: bytes, more: Mapping[str, str] | None = None) -> bytes:
    headers = {
        "Host": "localhost", "Authorization": f"Bearer {KEY}", "Content-Type": content_type,
        "Content-Length": str(len(body)), **(more or {}),
    }  # fmt: skip
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def _measure(
    server: Server, kind: str, request: bytes, connections: int, rounds: int, count: int
) -> dict[str, str | float]:
    """The medians of a kind of request, in microseconds."""
    client, taken = httpx.Client(base_url=server.base), []
    sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(connections)]
    _drive(sockets, request, count // 2)
    for _ in range(rounds):
        client.get(PATH)
        _drive(sockets, request, count)
        taken.append(client.get(PATH).json())
    for one in sockets:
        one.close()
    costs = {part: 1e6 * statistics.median(each.get(part, 0.0) for each in taken) / count for part in taken[0]}
    loop_parts = [part for part, _, _ in PARTS[2:]]
    outside = costs["process"] - costs[ENGINE]
    row = {"kind": kind, "connections": connections, "outside the engine": outside, "loop": costs["loop"]}
    row |= {part: costs[part] for part in loop_parts}
    row["rest of the loop"] = costs["loop"] - sum(costs[part] for part in loop_parts)
    row["device threads"] = costs["device threads"] - costs[ENGINE]
    row["waking and other threads"] = costs["process"] - costs["loop"] - costs["device threads"]
    return {name: value if isinstance(value, str) else round(value, 1) for name, value in row.items()}


def _drive(sockets: list[socket.socket], request: bytes, count: int) -> None:
    """Send requests, one on each connection at a time, and read their answers."""
    for _ in range(count // len(sockets)):
        for one in sockets:
            one.sendall(request)
        for one in sockets:
            _read(one)


def _read(connection: socket.socket) -> None:
    """Read one answer.

    Raises:
        RuntimeError: it is none to a request that was served.

    """
    answer = b""
    while True:
        answer += connection.recv(1 << 16)
        head, end, body = answer.partition(b"\r\n\r\n")
        length = LENGTH.search(head) if end else None
        if length and len(body) >= int(length[1]):
            break
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the server answered: {answer[:500]!r}")


def _pin(process: int, core: int) -> None:
    for thread in os.listdir(f"/proc/{process}/task"):
        os.sched_setaffinity(int(thread), {core})


if __name__ == "__main__":
    main()
