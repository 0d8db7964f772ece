"""One server process against several on the same cores, in turns: what they answer, and how long requests wait.

    python -m benchmarks.processes [--networks NAME …] [--processes N] [--rounds N] [--seconds S] [--photographs DATA]

The shipped models, each alone: JPEGs of 32 × 32 pixels for ``resnet20-cifar10``, of 500 × 375 for
``resnet18-imagenette``, of ``--photographs`` or drawn; at exact and at a sparser point. 64 requests under way all the
time, then arrivals at 60 % of what one process answered so, then one request at a time. Medians of the rounds;
brown-out is off.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.serving.measure import IN_FLIGHT, Contestant, alone, awake, load
from benchmarks.serving.servers import ask_service, start_service
from benchmarks.serving.workload import LARGE, MIXED_ROW, SMALL, Served, serve_all
from lccl_client.load import Closed, Open

SHARE = 0.6


def main() -> None:
    """Measure, print a table, write the result file."""
    options = results.command_line(
        __doc__,
        results.argument("--networks", nargs="+", choices=(SMALL, LARGE), default=(SMALL, LARGE)),
        results.argument("--processes", type=int, default=2),
        results.argument("--rounds", type=int, default=5),
        results.argument("--seconds", type=float, default=4.0, help="of each load"),
        results.argument("--photographs", type=Path, help="a data set; default: images are drawn"),
    ).parse_args()
    rows = []
    for served in serve_all(options.networks, results.usual_data(), photographs=options.photographs):
        rows += _rows(served, (1, options.processes), options.rounds, options.seconds)
    results.publish("processes", {"rows": rows})


def _rows(served: Served, counts: tuple[int, int], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """A network's rows, by quality and number of processes."""
    rows = []
    with ExitStack() as stack:
        servers = {}
        for count in counts:
            server = servers[count] = start_service(served, "--brownout", "false", "--processes", str(count))
            stack.callback(server.close)
            server.wait(ask_service("", served))
            server.freeze()
        for name, queries in served.qualities.items():
            if name == MIXED_ROW:
                continue
            lines = {
                count: Contestant(f"{count}", "own", server, (ask_service(queries[0], served),))
                for count, server in servers.items()
            }
            compared = _compare(name.removeprefix("LCCL "), lines, rounds, seconds)
            rows += [{"network": served.name, **row} for row in compared]
    return rows


def _compare(quality: str, lines: dict[int, Contestant], rounds: int, seconds: float) -> list[dict[str, Any]]:
    seen: dict[int, list[tuple[float, ...]]] = {count: [] for count in lines}
    rate = 0.0
    for number in range(rounds):
        for count in sorted(lines, reverse=bool(number % 2) and rate > 0):
            line = lines[count]
            with awake(line.server):
                full = load(line, Closed(IN_FLIGHT), seconds)
                rate = rate or SHARE * full.answers_per_s
                busy, one = load(line, Open(rate), seconds), alone(line, seconds / 2)
            seen[count].append((full.answers_per_s, busy.p50_ms or 0.0, busy.p99_ms or 0.0, one.total_ms))
    return [
        {
            "quality": quality,
            "processes": count,
            **dict(zip(COLUMNS, map(statistics.median, zip(*found, strict=True)), strict=True)),
            "arrivals_per_s": round(rate),
        }
        for count, found in seen.items()
    ]


COLUMNS = ("answers_per_s", "p50_ms", "p99_ms", "alone_ms")


if __name__ == "__main__":
    main()
