"""One network's comparison: start and check everyone, then measure in interleaved rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.serving import report, tune
from benchmarks.serving.check import check_peer
from benchmarks.serving.measure import Alone, Contestant, Loaded, alone, awake, load, saturate
from benchmarks.serving.servers import ask_peer, ask_service, start_peer, start_service
from benchmarks.serving.tune import DENSE, NATIVE, Tried
from benchmarks.serving.workload import Served
from lccl_client.load import Open

EXACT, HALF, MIXED = "LCCL exact", "LCCL sparsity 0.5", "LCCL mixed"
QUALITIES = {EXACT: ("",), HALF: ("sparsity=0.5",), MIXED: ("sparsity=0.36", "sparsity=0.5", "sparsity=0.64")}
RUNTIMES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", NATIVE: "LCCL engine"}
TAIL_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class Length:
    """How long everything is measured: rounds, and seconds of a turn at saturation, for the tail, and alone."""

    rounds: int
    seconds: float
    tail_seconds: float
    alone_seconds: float


def compare(
    served: Served, peers: Sequence[str], tuned: Sequence[Tried], length: Length, console: Console
) -> dict[str, Any]:
    """All figures of one network; see :mod:`benchmarks.serving` for what they are."""
    with started(served, peers, tuned, console) as contestants:
        found_alone = _alone(contestants, length, console)
        saturated = _saturated(contestants, length, console)
        best = report.best(saturated, [one.name for one in contestants if one.kind == "dense"])
        tails: dict[str, list[Loaded]] = {}
        if best is not None:
            rate = TAIL_SHARE * median(report.highest(saturated[best]))
            tails = _tails(contestants, rate, length, console)
    kinds = {one.name: one.kind for one in contestants}
    setups = {name: setup for name, (_, setup) in _setups(served, peers, tuned).items()}
    return {
        "network": served.name,
        "source": served.source,
        "bytes_per_image": float(np.mean([len(file) for file in served.images])),
        "rounds": length.rounds,
        "seconds": length.seconds,
        "tail_rate_per_s": None if best is None else rate,
        **report.figures(kinds, setups, found_alone, saturated, tails),
    }


@contextmanager
def started(
    served: Served, peers: Sequence[str], tuned: Sequence[Tried], console: Console
) -> Iterator[list[Contestant]]:
    """Everyone, started at once, then checked and frozen one by one."""
    with ExitStack() as stack:
        contestants = []
        for name, (peer, setup) in _setups(served, peers, tuned).items():
            server, kind = start_peer(peer, setup, served), "native" if setup.backend == NATIVE else "dense"
            stack.callback(server.close)
            contestants.append(Contestant(name, kind, server, (ask_peer(peer, served),)))
        own = start_service(served)
        stack.callback(own.close)
        contestants += [
            Contestant(name, "own", own, tuple(ask_service(quality, served) for quality in QUALITIES[name]))
            for name in QUALITIES
        ]
        for contestant in contestants:
            with console.status(f"{served.name}: waiting for {contestant.name}"), awake(contestant.server):
                contestant.server.wait(contestant.asks[0])
                if contestant.kind != "own":
                    check_peer(contestant.server, contestant.asks[0], served)
        yield contestants


def _setups(served: Served, peers: Sequence[str], tuned: Sequence[Tried]) -> dict[str, tuple[str, Any]]:
    """The peers' names in tables, with the settings that tuning found best."""
    found = {}
    for peer in peers:
        for backends in (DENSE, (NATIVE,)):
            setup = tune.choose(tuned, served.name, peer, backends)
            found[f"{peer}, {RUNTIMES[setup.backend]}"] = (peer, setup)
    return found


def _alone(contestants: Sequence[Contestant], length: Length, console: Console) -> dict[str, Alone]:
    found = {}
    for contestant in contestants:
        if contestant.name != MIXED:
            with console.status(f"alone: {contestant.name}"), awake(contestant.server):
                found[contestant.name] = alone(contestant, length.alone_seconds)
    return found


def _saturated(
    contestants: Sequence[Contestant], length: Length, console: Console
) -> dict[str, list[tuple[Loaded, Loaded]]]:
    found: dict[str, list[tuple[Loaded, Loaded]]] = {one.name: [] for one in contestants}
    for number, contestant in _turns(contestants, length.rounds):
        with console.status(f"saturated, round {number + 1}: {contestant.name}"), awake(contestant.server):
            found[contestant.name].append(saturate(contestant, length.seconds))
    return found


def _tails(contestants: Sequence[Contestant], rate: float, length: Length, console: Console) -> dict[str, list[Loaded]]:
    """All but the peers with this project's engine, at the same rate."""
    chosen = [one for one in contestants if one.kind != "native" and one.name != MIXED]
    found: dict[str, list[Loaded]] = {one.name: [] for one in chosen}
    for number, contestant in _turns(chosen, length.rounds):
        with console.status(f"{rate:.0f} a second, round {number + 1}: {contestant.name}"), awake(contestant.server):
            found[contestant.name].append(load(contestant, Open(rate), length.tail_seconds, seed=number))
    return found


def _turns(contestants: Sequence[Contestant], rounds: int) -> Iterator[tuple[int, Contestant]]:
    """Every contestant once a round, in an order that changes."""
    random = np.random.default_rng(0)
    for number in range(rounds):
        for index in random.permutation(len(contestants)):
            yield number, contestants[index]
