"""What the supervisor makes of workers that answer, fail, are silent or end, in place of whom stand-ins do so."""

from __future__ import annotations

import asyncio
import signal

import pytest
from prometheus_client import CollectorRegistry, Counter

from service.errors import ServiceError, StartError
from service.processes.channel import Outcome
from service.processes.hired import Hired
from service.processes.supervisor import Supervisor
from service.settings import Settings
from service.telemetry.together import Together, snapshot

FAILS = Outcome(error=ServiceError("unknown_model", "there is none"))


class StandIn:
    """A worker that answers every act alike: with an outcome, never (``"silent"``), or by its end (``None``)."""

    def __init__(self, answer, connections=0):
        self.number, self._answer, self.connections = 0, answer, connections
        self.joined, self.leaves, self.metrics, self.signals, self.asked = True, False, Outcome([]), [], []

    def ask(self, name, *args):
        self.asked.append((name, *args))
        future = asyncio.get_running_loop().create_future()
        if isinstance(self._answer, Outcome):
            future.set_result(self._answer)
        elif self._answer is None:
            future.cancel()
        return future

    def signal(self, number):
        self.signals.append(number)

    def join(self):
        self.joined = True

    def dismiss(self):
        self.signal(signal.SIGTERM)


class Shut:
    """A listener that has been opened already."""

    def open(self):
        return False


def supervise(act, *workers):
    async def run():
        supervisor = Supervisor(Settings(processes=2))
        supervisor._alive = dict(enumerate(workers, 1))
        return await act(supervisor)

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr("service.processes.supervisor.ANSWER_S", 0.1)
    monkeypatch.setattr("service.processes.supervisor.CHANGE_S", 0.1)


def test_a_change_that_one_cannot_follow_is_made_and_it_is_replaced():
    able, unable, ended = StandIn(Outcome()), StandIn(FAILS), StandIn(None)
    (outcome,) = supervise(lambda all_: all_._change("load", ("net", None)), able, unable, ended)
    assert outcome.read() is None
    assert (able.signals, unable.signals, ended.signals) == ([], [signal.SIGTERM], [])
    assert able.asked == [("load", "net", None)]


def test_a_change_that_nobody_can_make_is_told_and_nobody_is_replaced():
    workers = [StandIn(FAILS), StandIn(FAILS)]
    (outcome,) = supervise(lambda all_: all_._change("load", ("net", None)), *workers)
    with pytest.raises(ServiceError, match="there is none"):
        outcome.read()
    assert [worker.signals for worker in workers] == [[], []]


def test_a_worker_that_does_not_answer_is_not_ready_and_one_that_ended_is_not_asked_for():
    outcomes = supervise(lambda all_: all_._look("ready", ()), StandIn("silent"), StandIn(None), StandIn(Outcome()))
    assert [outcome.failed for outcome in outcomes] == [True, False]
    with pytest.raises(ServiceError, match="does not answer"):
        outcomes[0].read()


def test_where_nobody_can_be_asked_nothing_is_ready_and_nothing_changes():
    for act in (lambda all_: all_._look("ready", ()), lambda all_: all_._change("load", ("net", None))):
        (outcome,) = supervise(act)
        assert outcome.failed


def test_a_process_that_cannot_be_started_now_is_tried_again(monkeypatch):
    """The system gives no process for a while: the others go on, and the first start alone must not fail."""
    tries, worker = [], StandIn(Outcome())

    class Ended(StandIn):
        dismissed = False

        async def ended(self):
            return -9

    async def start(number, *_):
        tries.append(number)
        if len(tries) == 2:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        if len(tries) == 4:
            supervisor._ending.set()
        new = Ended(Outcome())
        new.number, new.started = number, asyncio.get_running_loop().create_future()
        new.started.set_result(None)
        return new

    async def keep(given):
        nonlocal supervisor
        supervisor = given
        await asyncio.wait_for(supervisor._keep(2, Shut()), 20)

    supervisor = None
    monkeypatch.setattr(Hired, "start", start)
    monkeypatch.setattr("service.processes.supervisor.LEAST_PAUSE_S", 0.01)
    supervise(keep, worker)
    assert tries == [2, 2, 2, 2]
    tries[:] = [2]  # the next one fails, of this supervisor the first
    with pytest.raises(StartError, match="no process can be started"):
        supervise(keep, worker)


def test_a_worker_that_leaves_is_neither_asked_nor_handed_anything():
    leaving, other = StandIn(Outcome()), StandIn(Outcome())
    leaving.leaves = True
    assert len(supervise(lambda all_: all_._look("ready", ()), leaving, other)) == 1
    assert not leaving.asked


def test_metrics_of_a_worker_that_does_not_answer_are_those_it_told_last():
    registry = CollectorRegistry()
    Counter("seen", "…", registry=registry).inc(3)
    silent = StandIn("silent")
    silent.metrics = Outcome(snapshot(registry))
    outcomes = supervise(lambda all_: all_._measure(), silent, StandIn(Outcome(snapshot(registry))))
    together = Together([outcome.read() for outcome in outcomes]).collect()
    assert [sample.value for metric in together for sample in metric.samples if sample.name == "seen_total"] == [6.0]


def test_a_new_worker_serves_what_the_first_that_answers_serves():
    silent, other, new = StandIn("silent"), StandIn(Outcome([("net", "1", "digest")])), StandIn(Outcome())
    new.joined = False
    supervise(lambda all_: all_._join(new, Shut()), silent, other, new)
    assert new.asked == [("adopt", [("net", "1", "digest")])]
    assert new.joined


@pytest.mark.parametrize("answer", [FAILS, "silent", None])
def test_a_new_worker_that_cannot_do_so_does_not_join(answer):
    new = StandIn(answer)
    new.joined = False
    with pytest.raises(StartError, match="cannot serve what the others do"):
        supervise(lambda all_: all_._join(new, Shut()), StandIn(Outcome([])), new)
    assert not new.joined
