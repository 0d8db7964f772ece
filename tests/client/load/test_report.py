"""From records to figures, without a network."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from lccl_client.load import Body, Closed, Open, Plan, Stream
from lccl_client.load.report import CONNECTION, NOT_SENT, TIMEOUT, UNREADABLE, Records, summarise

STREAMS = tuple(Stream(name, "POST", "/", {}, (Body(b"0", "cat"), Body(b"1", "dog"))) for name in ("a", "b"))
PLAN = Plan("http://x", STREAMS, Open(3.0), duration_s=2.0, warmup_s=1.0, slo_ms=50.0)


def recorded(*rows, answers=()):
    """Rows of (stream, status, scheduled, sent, done)."""
    records = Records()
    for stream, status, *times in rows:
        records.add((stream, 0), status, *times)
    records.answers.update(answers)
    return records


def report(records, plan=PLAN, cpu_s=0.1, wall_s=3.0):
    return summarise(plan, records, cpu_s, wall_s, "asyncio")


ROWS = (
    (0, 200, 0.5, 0.5, 1.2),  # due in the warm-up, answered after it
    (0, 200, 1.0, 1.0, 1.01),
    (1, 200, 1.5, 1.501, 1.6),
    (0, 429, 2.0, 2.0, 2.001),
    (1, TIMEOUT, 2.1, 2.1, 2.9),
    (1, CONNECTION, 2.2, 2.2, 2.3),
    (0, NOT_SENT, 2.4, math.nan, math.nan),
    (1, 201, 2.9, 2.9, 3.4),  # answered after the end
    (1, 200, 3.0, 3.0, 3.01),  # due after the end
)


def test_what_is_due_between_warmup_and_end_counts():
    total = report(recorded(*ROWS)).total
    assert total.requests == 7
    assert total.statuses == {"200": 2, "201": 1, "429": 1, "timeout": 1, "connection": 1, "not_sent": 1}
    assert total.successes_per_s == 3 / 2
    assert total.goodput_per_s == 1 / 2
    assert total.latency_ms.p50 == pytest.approx(100)
    assert total.latency_ms.max == pytest.approx(500)


def test_streams_add_up_to_the_total():
    found = report(recorded(*ROWS))
    parts = found.streams.values()
    assert sum(part.requests for part in parts) == found.total.requests
    assert sum(part.goodput_per_s for part in parts) == found.total.goodput_per_s
    assert found.streams["a"].statuses == {"200": 1, "429": 1, "not_sent": 1}


def test_without_an_objective_there_is_no_goodput_and_without_answers_no_latency():
    found = report(recorded((0, 429, 1.5, 1.5, 1.6)), replace(PLAN, slo_ms=None))
    assert found.total.goodput_per_s is None
    assert found.total.latency_ms is None
    assert report(recorded()).total.requests == 0


def test_the_readers_numbers_are_averaged_and_refused_answers_counted():
    def read(body, content):
        return {"number": float(content), "label": float(body.label == "cat")}

    rows = [(number % 2, 200, 1.0 + number / 10, 1.0, 2.0) for number in range(4)]
    records = recorded((0, 200, 0.1, 0.1, 0.2), *rows, answers={0: b"100", 1: b"1", 2: b"2", 3: b"no number", 4: b"6"})
    found = report(records, replace(PLAN, reader=read))
    assert found.total.means["number"].value == 3
    assert found.total.means["number"].answers == 3
    assert found.total.means["label"].value == 1
    assert found.total.means[UNREADABLE].value == 0.25
    assert found.streams["a"].means["number"].value == 1
    assert found.streams["b"].means["number"].value == 4


def test_a_generator_that_keeps_its_times_is_not_warned_of():
    own = report(recorded(*((0, 200, 1 + n / 100, 1 + n / 100 + 0.001, 2.0) for n in range(100)))).generator
    assert own.late_ms.p50 == pytest.approx(1)
    assert own.cpu_us_per_request == pytest.approx(1000)
    assert own.warnings == ()


def test_a_generator_that_is_late_busy_or_full_says_so():
    late = recorded(*((0, 200, 1.0, 1.0 + n / 1000, 2.0) for n in range(20)))
    assert "late" in report(late).generator.warnings[0]
    assert report(late, replace(PLAN, pace=Closed(1))).generator.warnings == ()
    assert "busy 90 %" in report(recorded(ROWS[1]), cpu_s=2.7).generator.warnings[0]
    assert "1 requests were not sent" in report(recorded(*ROWS)).generator.warnings[0]
