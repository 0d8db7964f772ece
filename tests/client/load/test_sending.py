"""Whole runs against real servers: rates kept, counts that add up, failures told apart."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

import pytest

from lccl_client.load import Body, Closed, Open, Plan, Stream, run, run_apart


def stream(name="a", path="/", weight=1.0, bodies=4):
    return Stream(
        name, "POST", path, {}, tuple(Body(b"%d" % number, f"label{number}") for number in range(bodies)), weight
    )


def plan(base, pace, duration_s=0.6, **options):
    return Plan(base, options.pop("streams", (stream(),)), pace, duration_s, **options)


def read_number(body, content):
    return {"number": float(content), "labelled": float(body.label == f"label{content.decode()}")}


def test_an_open_load_is_not_slowed_by_a_server_that_stalls(answering):
    """No request waits for another's answer: all are sent at their times, and the stall counts in all latencies."""
    over, received = threading.Event(), []
    stall = threading.Timer(1.5, over.set)

    def answer(handler):
        received.append(time.monotonic())
        if len(received) == 1:
            stall.start()
        over.wait(10)
        handler.reply()

    with answering(answer) as base:
        report = run(plan(base, Open(50, "uniform"), duration_s=1.0))
    stall.join()
    assert report.total.statuses == {"200": 50}
    assert report.generator.late_ms.max < 200
    assert received[-1] - received[0] == pytest.approx(0.98, abs=0.25)
    # The first was due 1.5 s before the stall ended, the last 0.5 s.
    assert 1300 < report.total.latency_ms.max < 2500
    assert report.total.latency_ms.p50 == pytest.approx(1000, abs=300)


def test_a_closed_load_keeps_so_many_under_way(answering):
    under_way, most, lock = 0, 0, threading.Lock()

    def answer(handler):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.02)
        with lock:
            under_way -= 1
        handler.reply()

    with answering(answer) as base:
        report = run(plan(base, Closed(3), warmup_s=0.2))
    assert most == 3
    assert report.in_flight == 3
    assert report.rate_per_s is None
    assert 20 < report.total.successes_per_s <= 151
    assert report.total.latency_ms.p50 >= 20


def test_statuses_add_up_over_streams_and_answers_are_read(answering):
    def answer(handler):
        handler.reply(int(handler.path[1:]), handler.content)

    streams = (stream("good", "/200", 3.0), stream("full", "/429"), stream("broken", "/500"))
    with answering(answer) as base:
        report = run(plan(base, Open(300), streams=streams, warmup_s=0.2, slo_ms=1000, reader=read_number))
    total = report.total
    assert sum(total.statuses.values()) == total.requests
    assert report.streams["full"].statuses == {"429": report.streams["full"].requests}
    assert sum(one.requests for one in report.streams.values()) == total.requests
    assert total.goodput_per_s == pytest.approx(total.statuses["200"] / 0.6)
    means = report.streams["good"].means
    assert means["labelled"].value == 1
    assert means["number"].answers == total.statuses["200"]
    assert means["number"].value == pytest.approx(1.5, abs=0.1)
    assert report.streams["full"].means == {}


def test_some_answers_are_read_where_some_are_asked_for(answering):
    with answering(lambda handler: handler.reply(200, handler.content)) as base:
        report = run(plan(base, Open(200, "uniform"), reader=read_number, read_every=10))
    assert report.total.means["number"].answers == report.total.requests / 10


def test_failures_are_told_apart(answering):
    over = threading.Event()

    def answer(handler):
        if handler.path == "/silent":
            over.wait(10)
        handler.close_connection = True

    streams = (stream("silent", "/silent"), stream("closed", "/closed"))
    with answering(answer) as base:
        report = run(plan(base, Open(40), streams=streams, timeout_s=0.3))
        over.set()
    assert set(report.streams["silent"].statuses) == {"timeout"}
    assert set(report.streams["closed"].statuses) == {"connection"}
    assert report.total.latency_ms is None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert set(run(plan(nowhere, Open(40))).total.statuses) == {"connection"}


def test_more_under_way_than_allowed_are_not_sent_and_the_report_says_so(answering):
    over = threading.Event()
    with answering(lambda _: over.wait(10)) as base:
        report = run(plan(base, Open(50, "uniform", concurrency_limit=5), timeout_s=1.0))
        over.set()
    assert report.total.statuses == {"timeout": 5, "not_sent": 25}
    assert "25 requests were not sent" in report.generator.warnings[-1]


def test_progress_is_told_while_it_runs(answering):
    seen = []
    with answering(lambda handler: handler.reply()) as base:
        run(plan(base, Open(50), duration_s=1.2), seen.append)
    assert len(seen) >= 3
    assert [now.elapsed_s for now in seen] == sorted(now.elapsed_s for now in seen)
    assert seen[-1].ended > 10


def read_processors(body, content):
    return {"processors": float(len(os.sched_getaffinity(0))), "process": float(os.getpid())}


@pytest.mark.skipif(sys.platform != "linux", reason="processes are given processors on Linux alone")
def test_a_run_can_have_a_process_and_a_processor_of_its_own(answering):
    with answering(lambda handler: handler.reply()) as base:
        one = min(os.sched_getaffinity(0))
        means = run_apart(plan(base, Open(50), reader=read_processors), {one}).total.means
    assert means["processors"].value == 1
    assert means["process"].value != os.getpid()
