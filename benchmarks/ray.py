"""What Ray's hop costs, and how throughput grows from 1 to 4 replicas of one thread each.

    python -m benchmarks.ray [--ways proxy haproxy] [--replicas 1 2 3 4] [--seconds S] [--rounds N]

Beside a Ray of one node runs ``lccl-serve`` with one thread; both answer the same requests in turn, round by round,
over connections that ask again as soon as they are answered. Processor time is that of all processes of a server, Ray's
included. The client takes its share of the same cores. What is measured
replaces its rows in the result file; the hop is measured with one replica.
"""

from __future__ import annotations

import os
import selectors
import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import httpx

from benchmarks import results
from benchmarks.request_cost import LENGTH, requests
from benchmarks.server import Server

WAYS = {
    "proxy": {},
    "haproxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"},
}
REPLICAS = range(1, 5)
CONNECTIONS = (1, 16)
IMAGES = 16  # of a large request
MANY = {1: 32, IMAGES: 8}  # connections for the throughput of replicas, by images of a request
SETTLED_S = 60.0
QUIET_S = 4.0  # HAProxy is started anew for a replica that comes, and the one before it closes its connections
PARTS = {
    "ray::ProxyActor": "proxy",
    "haproxy": "proxy",
    "ray::ServeReplica": "replicas",
    "ray::HAProxyManager": "proxy",
}
Row = dict[str, Any]


def main() -> None:
    """Measure, print tables, write the result file."""
    options = results.command_line(
        __doc__,
        results.argument("--ways", nargs="+", choices=WAYS, default=list(WAYS)),
        results.argument("--replicas", nargs="+", type=int, choices=REPLICAS, default=list(REPLICAS)),
        results.argument("--seconds", type=float, default=3.0, help="of each measurement"),
        results.argument("--rounds", type=int, default=3),
    ).parse_args()
    found = results.read("ray") or {}
    hop: dict[str, list[Row]] = {way: _of(found.get("hop", []), way=way) for way in WAYS}
    replicas = {(way, n): _of(found.get("replicas", []), way=way, replicas=n) for way in WAYS for n in REPLICAS}
    for way in options.ways:
        for count in options.replicas:
            with _servers(way, count) as (alone, behind):
                replicas[way, count] = [_throughput(way, count, behind, options.seconds)]
                if count == 1:
                    hop[way] = _hop(way, {"lccl-serve": alone, way: behind}, options.seconds, options.rounds)
    tables = {"hop": hop, "replicas": replicas}
    results.publish("ray", {name: list(chain.from_iterable(rows.values())) for name, rows in tables.items()})


def _of(rows: list[Row], **values: Any) -> list[Row]:
    return [row for row in rows if row.items() >= values.items()]


@contextmanager
def _servers(way: str, count: int) -> Iterator[tuple[Server, Server]]:
    """``lccl-serve`` with one thread, and Ray with so many replicas, all of which run."""
    alone = Server("beside-ray", "--compute-threads", "1")
    behind = Server(
        "ray", "--replicas", str(count), program=("-m", "benchmarks.ray_probe"), environment=WAYS[way]
    )  # fmt: skip
    with alone, behind:
        _settle(behind, count)
        yield alone, behind


def _throughput(way: str, count: int, server: Server, seconds: float) -> Row:
    row: Row = {"way": way, "replicas": count}
    for images, request in ((1, requests()["v1 raw"]), (IMAGES, _large())):
        per_s = drive(server, request, MANY[images], seconds)["requests/s"]
        row[f"images/s, {images} a request"] = round(images * per_s)
    return row


def _hop(way: str, servers: dict[str, Server], seconds: float, rounds: int) -> list[Row]:
    """Medians over rounds, in which the servers take turns."""
    request, rows = requests()["v1 raw"], []
    for connections in CONNECTIONS:
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        for _ in range(rounds):
            for name, server in servers.items():
                taken[name].append(drive(server, request, connections, seconds))
        for name, figures in taken.items():
            medians = {part: statistics.median(one[part] for one in figures) for part in figures[0]}
            rows.append({"way": way, "asked": name, "connections": connections, **medians})
    return rows


def _settle(server: Server, count: int) -> None:
    """Return once so many replicas tell where their metrics are."""
    deadline = time.monotonic() + SETTLED_S
    while True:
        (group,) = httpx.get(f"{server.base}/metrics/targets").json()
        if len(group["targets"]) == count:
            time.sleep(QUIET_S)
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"there are not {count} replicas, but {group}")
        time.sleep(0.2)


def _large() -> bytes:
    """A form of several images."""
    one = requests()["v1 form"]
    head, _, body = one.partition(b"\r\n\r\n")
    part = body.partition(b"--XX--")[0]
    form = IMAGES * part + b"--XX--\r\n"
    return LENGTH.sub(b"\r\nContent-Length: %d" % len(form), head) + b"\r\n\r\n" + form


def drive(server: Server, request: bytes, connections: int, seconds: float) -> dict[str, float]:
    """Ask over connections that are never idle, after a third of the time to get warm.

    Returns:
        requests a second, quantiles of the time to an answer, and processor time a request.

    """
    sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(connections)]
    with selectors.DefaultSelector() as waiting:
        for one in sockets:
            waiting.register(one, selectors.EVENT_READ)
        list(_answers(waiting, sockets, request, seconds / 3))
        before, began = _processor_s(server.process.pid), time.perf_counter()
        times = sorted(_answers(waiting, sockets, request, seconds))
        taken, spent = time.perf_counter() - began, _processor_s(server.process.pid) - before
    for one in sockets:
        one.close()
    figures = {
        "requests/s": len(times) / taken,
        "p50 ms": 1000 * times[len(times) // 2],
        "p99 ms": 1000 * times[len(times) * 99 // 100],
        "µs of processors": 1e6 * spent.total() / len(times),
    }
    figures |= {f"µs of {part}": 1e6 * spent[part] / len(times) for part in ("proxy", "replicas")}
    return {name: round(value, 2) for name, value in figures.items()}


def _answers(
    waiting: selectors.BaseSelector, sockets: list[socket.socket], request: bytes, seconds: float
) -> Iterator[float]:
    """The seconds that each answer took; ends when all that was asked is answered."""
    ends, sent, read = time.perf_counter() + seconds, {}, dict.fromkeys(sockets, b"")
    for one in sockets:
        sent[one] = time.perf_counter()
        one.sendall(request)
    while sent:
        for key, _ in waiting.select():
            one: Any = key.fileobj
            more = one.recv(1 << 16)
            if not more:
                raise RuntimeError("the server closed a connection before its answer")
            read[one] += more
            if not _is_whole(read[one]):
                continue
            now = time.perf_counter()
            yield now - sent.pop(one)
            read[one] = b""
            if now < ends:
                sent[one] = time.perf_counter()
                one.sendall(request)


def _is_whole(answer: bytes) -> bool:
    """Raises RuntimeError for an answer to a request that was not served."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = LENGTH.search(b"\r\n" + head) if end else None
    if end and not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the server answered: {answer[:500]!r}")
    return length is not None and len(body) >= int(length[1])


def _processor_s(root: int) -> Counter[str]:
    """Processor seconds of a process and all that descend from it, by part."""
    parents, seconds, names = {}, {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            names[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        parents[int(folder.name)] = int(fields[1])
        seconds[int(folder.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    parts: Counter[str] = Counter()
    for process, spent in seconds.items():
        ancestor = process
        while ancestor not in {root, 0}:
            ancestor = parents.get(ancestor, 0)
        if ancestor == root:
            part = next((part for name, part in PARTS.items() if name in names[process].split(" ")[0]), "rest")
            parts[part] += spent
    return parts


if __name__ == "__main__":
    main()
