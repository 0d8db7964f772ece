"""What ``lccl-client bench`` reads from answers, and its reports as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from lccl_client import wire
from lccl_client.answers import Answer
from lccl_client.errors import ImageError, UnreadableAnswerError
from lccl_client.load import Body, Report, Summary

# Names of the numbers that `read_answer` returns.
SKIPPED, DOWNGRADED, EXITED, CORRECT = "skip_ratio", "downgraded", "left_early", "correct"
OVERLOADED, DEADLINE = "429", "504"
SUCCESS, NOTHING = "2", "–"
LATENCIES = {"p50": "p50 ms", "p90": "p90", "p99": "p99", "max": "max"}


def read_answer(body: Body, content: bytes) -> dict[str, float]:
    """What an answer says: skip ratio, whether downgraded, milliseconds in queue and compute, and whether it is right.

    Of a model with early exits also whether one of them answered.

    Raises:
        ValueError: not an answer of this server.

    """
    try:
        answer = wire.parse(Answer, content)
        best = answer.best
    except (UnreadableAnswerError, ImageError) as error:
        raise ValueError(str(error)) from error
    prediction = answer.predictions[0]
    numbers = {
        DOWNGRADED: answer.operating_point.downgraded,
        "queue_ms": answer.timing_ms.queue,
        "compute_ms": answer.timing_ms.compute,
        SKIPPED: prediction.skip_ratio,
        EXITED: prediction.exit is not None if answer.operating_point.exit_confidence else None,
        CORRECT: None if body.label is None else best.label == body.label,
    }
    return {name: float(number) for name, number in numbers.items() if number is not None}


def table(reports: Sequence[Report]) -> Table:
    """One row per run, and below it one per stream where there are several; columns without a number are left out."""
    rows = []
    for report in reports:
        rows.append({"load": _load(report), **_cells(report.total)})
        if len(report.streams) > 1:
            rows += [{"load": f"  {name}", **_cells(summary)} for name, summary in report.streams.items()]
    shown = Table(box=None, header_style="bold", padding=(0, 1))
    names = [name for name in rows[0] if any(row[name] != NOTHING for row in rows)]
    for name in names:
        width = max(len(name), *(len(row[name]) for row in rows))
        shown.add_column(name, justify="left" if name == "load" else "right", min_width=width)
    for row in rows:
        shown.add_row(*(row[name] for name in names))
    return shown


def generator_lines(report: Report) -> list[str]:
    """What the generator took for a run, and its warnings."""
    own = report.generator
    late = f"sent late by {own.late_ms.p50:.2f} ms (p50), {own.late_ms.p99:.2f} ms (p99)" if own.late_ms else "idle"
    line = f"{_load(report)}: generator {own.cpu_us_per_request:.0f} µs CPU a request ({own.event_loop}), {late}"
    return [line, *(f"[yellow]warning:[/] {warning}" for warning in own.warnings)]


def _load(report: Report) -> str:
    return f"{report.in_flight} at once" if report.rate_per_s is None else f"{report.rate_per_s:.4g}/s"


def _cells(summary: Summary) -> dict[str, str]:
    statuses, named = summary.statuses, (OVERLOADED, DEADLINE)
    latency = asdict(summary.latency_ms) if summary.latency_ms else {}
    means = {name: mean.value for name, mean in summary.means.items()}
    return {
        "requests": str(summary.requests),
        "2xx/s": f"{summary.successes_per_s:.1f}",
        "goodput/s": _number(summary.goodput_per_s, ".1f"),
        **{column: _number(latency.get(name), ".2f") for name, column in LATENCIES.items()},
        **{status: str(statuses.get(status, 0)) for status in named},
        "other": str(sum(n for code, n in statuses.items() if code not in named and not code.startswith(SUCCESS))),
        "skipped": _number(means.get(SKIPPED), ".3f"),
        "left early": _number(means.get(EXITED), ".1%"),
        "downgraded": _number(means.get(DOWNGRADED), ".1%"),
        "accuracy": _number(means.get(CORRECT), ".1%"),
    }


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)
