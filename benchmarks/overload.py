"""Offered load from half to three times capacity, with and without brown-out: goodput, p99, and what it cost.

    python -m benchmarks.overload [--network resnet20|resnet18] [--seconds S] [--rounds N] [--photographs DATA]

Every request is ``operating_point=exact&max_accuracy_drop=2``: exact, or up to two percentage points less under
overload. ``resnet20``: the shipped model of thumbnails, JPEGs of 32 × 32 pixels; most of the time goes into HTTP.
``resnet18``: the shipped model of photographs, JPEGs of 500 × 375 pixels, of ``--photographs`` or drawn; most of the
time goes into decoding and computing.

An answer counts as goodput within the server's time limit, which is the request's deadline. The generator is held to
one of the cores that the server uses too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.serving.measure import awake
from benchmarks.serving.servers import Ask, Server, ask_service, start_service
from benchmarks.serving.workload import LARGE, SMALL, serve_all
from lccl_client.load import Body, Closed, Open, Plan, Report, Stream, run_apart
from service.transport.admission import LEAST

QUALITY = "operating_point=exact&max_accuracy_drop=2"
DEADLINE_MS = 250.0
LOADS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
IN_FLIGHT = LEAST  # never too many for the service, so that none is refused and sent again at once


def main() -> None:
    """Measure both servers in turn at every load, print a table, write the result file."""
    options = results.command_line(
        __doc__,
        results.argument("--seconds", type=float, default=6.0),
        results.argument("--rounds", type=int, default=3),
        results.argument("--network", choices=(SMALL, LARGE), default=SMALL),
        results.argument("--photographs", type=Path, help="a data set; default: images are drawn"),
    ).parse_args()
    (served,) = serve_all([options.network], results.usual_data(), photographs=options.photographs)
    ask, limit = ask_service(QUALITY, served), ("--request-timeout-s", f"{DEADLINE_MS / 1000:g}")
    brownout = {"with": "true", "without": "false"}
    servers = {name: start_service(served, "--brownout", value, *limit) for name, value in brownout.items()}
    try:
        for server in servers.values():
            server.wait(ask)
            server.freeze()
        figures = measure(servers, ask, DEADLINE_MS, options.seconds, options.rounds)
    finally:
        for server in servers.values():
            server.close()
    results.print_rows(figures["rows"], f"capacity {figures['capacity_per_s']}/s")
    figures |= {"request": QUALITY, "source": served.source}
    print(results.write(f"overload-{options.network}", figures))


def measure(servers: dict[str, Server], ask: Ask, deadline_ms: float, seconds: float, rounds: int) -> dict[str, Any]:
    """Capacity without brown-out, then rows of load and server; each figure is the median over the rounds."""
    with awake(servers["without"]):
        closed = [_run(servers["without"], ask, deadline_ms, Closed(IN_FLIGHT), seconds) for _ in range(rounds)]
    capacity = float(np.median([one.total.successes_per_s for one in closed]))
    taken: dict[tuple[float, str], list[dict[str, float]]] = {}
    for number in range(rounds):
        for times in LOADS:
            for name, server in servers.items():
                with awake(server):
                    report = _run(server, ask, deadline_ms, Open(times * capacity), seconds, number)
                taken.setdefault((times, name), []).append(_figures(report))
    rows = [
        {"load": times, "brownout": name}
        | {key: round(float(np.median([one[key] for one in rounds_of])), 4) for key in rounds_of[0]}
        for (times, name), rounds_of in taken.items()
    ]
    return {"deadline_ms": deadline_ms, "capacity_per_s": round(capacity, 1), "rows": rows}


def _run(server: Server, ask: Ask, deadline_ms: float, pace: Open | Closed, seconds: float, seed: int = 0) -> Report:
    stream = Stream("all", "POST", ask.path, {"Content-Type": ask.content_type}, tuple(map(Body, ask.bodies)))
    plan = Plan(server.base, (stream,), pace, seconds, 2.0, slo_ms=deadline_ms, seed=seed, reader=_read, read_every=3)
    return run_apart(plan, {1})


def _read(_: Body, content: bytes) -> dict[str, float]:
    answer = json.loads(content)
    point = answer["operating_point"]
    return {
        "downgraded": float(point["downgraded"]),
        "accuracy_drop": point["expected_accuracy_drop"],
        "skip_ratio": answer["predictions"][0]["skip_ratio"],
        "server_ms": answer["timing_ms"]["total"],
    }


def _figures(report: Report) -> dict[str, float]:
    total, seconds = report.total, report.duration_s
    latency = total.latency_ms
    mean = {name: total.means[name].value if name in total.means else 0.0 for name in ("downgraded", "accuracy_drop")}
    return {
        "offered_per_s": total.requests / seconds,
        "answered_per_s": total.statuses.get("200", 0) / seconds,
        "goodput_per_s": total.goodput_per_s or 0.0,
        "p50_ms": latency.p50 if latency else 0.0,
        "p99_ms": latency.p99 if latency else 0.0,
        "max_ms": latency.max if latency else 0.0,
        "refused_429": total.statuses.get("429", 0) / max(1, total.requests),
        "too_late_504": total.statuses.get("504", 0) / max(1, total.requests),
        "generator_share": report.generator.cpu_share,
        **mean,
    }


if __name__ == "__main__":
    main()
