"""Uses a running stack from outside and tells, one line a check, whether service and Prometheus do their part."""

from __future__ import annotations

import argparse
import json
import math
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPEATS = 20
SERIES = (
    'up{job="lccl"} == 1',
    "lccl_request_duration_seconds_count",
    "lccl_skip_ratio_count",
    "lccl_requested_sparsity_count",
    "lccl_images_total",
    "lccl_macs_total",
    "lccl_layer_cells_skipped_total",
)
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: its status, media type and body."""

    status: int
    media_type: str
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Report:
    """Prints each check's line and remembers whether one failed."""

    failed: bool = False

    def check(self, what: str, good: bool, detail: object = "") -> None:
        self.failed |= not good
        print(f"{'ok  ' if good else 'FAIL'} {what}{f': {detail}' if detail != '' else ''}", flush=True)


def call(url: str, body: bytes | None = None, media_type: str = "image/png") -> Answer:
    """GET, or POST when there is a body. An error status is an answer too."""
    request = urllib.request.Request(url, body, {"Content-Type": media_type} if body is not None else {})
    try:
        with OPENER.open(request, timeout=30) as response:
            return Answer(response.status, response.headers.get_content_type(), response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers.get_content_type(), error.read())


def read_image(path: Path) -> bytes:
    """The file's bytes; where there is none, a 32 × 32 PNG of a colour ramp."""
    if path.is_file():
        return path.read_bytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(value for x in range(32) for value in (8 * x, 8 * y, 128)) for y in range(32))
    header = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def check_operations(report: Report, service: str) -> None:
    for path in ("/health/live", "/health/ready", "/metrics", "/docs"):
        status = call(service + path).status
        report.check(f"GET {path}", status == 200, status)


def check_classify(report: Report, service: str, image: bytes) -> None:
    """Classify as asked by default and halfway into the sparsities on offer, then send what is no image."""
    models = call(f"{service}/v1/models").json()["models"]
    report.check("GET /v1/models", bool(models), ", ".join(model["name"] for model in models))
    low, high = models[0]["sparsity_range"]
    halfway = round((low + high) / 2, 3)
    for query in ("", f"?sparsity={halfway}"):
        answers = [call(f"{service}/v1/classify{query}", image) for _ in range(REPEATS)]
        report.check(f"POST /v1/classify{query}", *_classified(answers))
    refused = call(f"{service}/v1/classify", b"not an image")
    problem = refused.status == 415 and refused.media_type == "application/problem+json"
    report.check("POST /v1/classify of what is no image", problem, f"{refused.status} {refused.media_type}")


def _classified(answers: list[Answer]) -> tuple[bool, str]:
    """Whether every answer is a good one, and the last in words."""
    last = answers[-1]
    if any(answer.status != 200 for answer in answers):
        return False, f"{last.status} {last.body.decode(errors='replace')[:300]}"
    found, point = last.json()["predictions"][0], last.json()["operating_point"]
    best, macs = found["classes"][0], found["macs"]
    return (
        0 <= found["skip_ratio"] <= 1 and macs["gated"] > 0 and macs["dense"] > 0,
        f"{len(answers)} answers; {best['label']} at {best['probability']:.2f}, "
        f"skip ratio {found['skip_ratio']:.3f} of {point['sparsity']:.3f} expected",
    )


def query(prometheus: str, expression: str) -> list[Any] | None:
    """The series of an instant query; None where Prometheus does not take it."""
    answer = call(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
    return answer.json()["data"]["result"] if answer.status == 200 else None


def check_series(report: Report, prometheus: str, deadline: float) -> None:
    """Wait until each series has data."""
    for expression in SERIES:
        while not (found := query(prometheus, expression)) and time.monotonic() < deadline:
            time.sleep(1)
        report.check(f"Prometheus has {expression}", bool(found), f"{len(found or ())} series")


def check_dashboard(report: Report, prometheus: str, dashboard: Path, deadline: float) -> None:
    """Ask Prometheus what every panel asks, until each is answered with a number."""
    waiting = dict(questions(json.loads(dashboard.read_text()), "1m"))
    asked = len(waiting)
    while waiting:
        for expression in list(waiting):
            found = query(prometheus, expression)
            if found is None:
                report.check(f"Prometheus understands {waiting.pop(expression)}", False, expression)
            elif any(math.isfinite(float(series["value"][1])) for series in found):
                del waiting[expression]
        if not waiting or time.monotonic() > deadline:
            break
        time.sleep(1)
    missing = ", ".join(sorted(set(waiting.values())))
    report.check(f"{dashboard.stem}: its {asked} queries have data", not waiting, missing)


def questions(dashboard: Any, interval: str, instance: str = ".+") -> Iterator[tuple[str, str]]:
    """What each panel asks Prometheus, and the panel's title.

    Args:
        interval: takes the place of Grafana's own.
        instance: chooses replicas, by default all, as it is for models.

    """
    values = {"$__rate_interval": interval, "$model": ".+", "$instance": instance.replace("\\", "\\\\")}
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for variable, value in values.items():
                expression = expression.replace(variable, value)
            yield expression, panel["title"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service", default="http://127.0.0.1:8000")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090")
    parser.add_argument("--image", type=Path, default=Path("docs/example.png"))
    parser.add_argument("--dashboards", type=Path, default=Path("deploy/grafana/dashboards"))
    parser.add_argument("--patience", type=float, default=60, help="seconds that Prometheus gets to have the data")
    options = parser.parse_args()
    report, image = Report(), read_image(options.image)
    check_operations(report, options.service)
    check_classify(report, options.service, image)
    check_series(report, options.prometheus, time.monotonic() + options.patience)
    for _ in range(REPEATS):  # a rate needs growth between two scrapes
        call(f"{options.service}/v1/classify", image)
    for dashboard in sorted(options.dashboards.glob("*.json")):
        check_dashboard(report, options.prometheus, dashboard, time.monotonic() + options.patience)
    raise SystemExit(report.failed)


if __name__ == "__main__":
    main()
