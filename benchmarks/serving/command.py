"""The command line: tune the peers, or start and check everyone and measure in interleaved rounds; print and write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console

from benchmarks import results, serving
from benchmarks.serving import report, tune
from benchmarks.serving.measure import IN_FLIGHT, Contestant, Loaded, alone, awake, load, saturate
from benchmarks.serving.servers import (
    Setup,
    ask_peer,
    ask_service,
    check_peer,
    key_of,
    peers_python,
    start_peer,
    start_service,
)
from benchmarks.serving.tune import NATIVE, PEERS, Tried
from benchmarks.serving.workload import EXACT_ROW, HUGE, MIXED_ROW, NETWORKS, Served, serve_all
from lccl_client.load import Closed, Open

RUNTIMES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", NATIVE: "LCCL engine"}
# Bodies of some 5 MB, of which as many are to be held as are under way: the default would refuse a quarter of them.
FLAGS = {HUGE: ("--max-inflight-bytes", f"{1 << 30}")}
TAIL_SHARE = 0.7
T = TypeVar("T")
REQUIREMENTS = Path(__file__).parent / "requirements-peers.txt"
DECODERS = ("simplejpeg", "pillow")  # of JPEGs, the preferred one first
PROGRAMS = {"FastAPI": "fastapi", "LitServe": "litserve", "BentoML": "bentoml", "Ray Serve": "ray"}
PACKAGES = (*PROGRAMS.values(), "uvicorn", *DECODERS, "numpy", "onnxruntime", "openvino")
Versions = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Length:
    """How long everything is measured: rounds, and seconds of a turn at saturation, for the tail, and alone."""

    rounds: int
    seconds: float
    tail_seconds: float
    alone_seconds: float


LONG = Length(rounds=3, seconds=4.0, tail_seconds=8.0, alone_seconds=2.0)
QUICK = Length(rounds=1, seconds=1.5, tail_seconds=2.0, alone_seconds=0.5)
TUNE_S, TUNE_ROUNDS = 6.0, 1
ATTEMPTS, QUIET_CORES = 3, 0.3  # what other processes may take of a machine that tells one setting from another


def compare(
    served: Served, peers: Sequence[str], tuned: Sequence[Tried], length: Length, decoder: str, console: Console
) -> dict[str, Any]:
    """All figures of one network; see :mod:`benchmarks.serving` for what they are."""
    with started(served, peers, tuned, console) as contestants:
        single = [one for one in contestants if one.name != MIXED_ROW]
        lone = _in_turns("alone", single, 1, console, lambda one, _: alone(one, length.alone_seconds))
        saturated = _in_turns(
            "saturated", contestants, length.rounds, console, lambda one, _: saturate(one, length.seconds)
        )
        best = report.best(saturated, [one.name for one in contestants if one.kind == "dense"])
        tails: dict[str, list[Loaded]] = {}
        if best is not None:  # all but the peers with this project's engine, at the same rate
            rate = TAIL_SHARE * median(report.highest(saturated[best]))
            chosen = [one for one in single if one.kind in ("dense", "own")]
            tails = _in_turns(
                f"{rate:.0f} a second", chosen, length.rounds, console,
                lambda one, number: load(one, Open(rate), length.tail_seconds, seed=number),
            )  # fmt: skip
    setups = {name: setup for name, (_, setup) in _setups(served, peers, tuned).items()}
    return {
        "network": served.name,
        "source": served.source,
        "decoder": decoder,
        "bytes_per_image": float(np.mean([len(file) for file in served.images])),
        "rounds": length.rounds,
        "seconds": length.seconds,
        "tail_rate_per_s": None if best is None else rate,
        **report.figures(contestants, setups, {name: found for name, (found,) in lone.items()}, saturated, tails),
    }


@contextmanager
def started(
    served: Served, peers: Sequence[str], tuned: Sequence[Tried], console: Console
) -> Iterator[list[Contestant]]:
    """Everyone, started at once, then checked and frozen one by one."""
    with ExitStack() as stack:
        contestants, setups = [], _setups(served, peers, tuned)
        for name, (peer, setup) in setups.items():
            server = start_peer(peer, setup, served)
            stack.callback(server.close)
            kind = "native" if setup.backend == NATIVE else "whole" if setup.whole else "dense"
            accuracy = served.answers[key_of(setup)].accuracy
            contestants.append(Contestant(name, kind, server, (ask_peer(peer, served),), setup.precision, accuracy))
        own = start_service(served, *FLAGS.get(served.name, ()))
        stack.callback(own.close)
        asked = {
            name: tuple(ask_service(quality, served) for quality in queries)
            for name, queries in served.qualities.items()
        }
        for contestant in contestants:
            with console.status(f"{served.name}: waiting for {contestant.name}"), awake(contestant.server):
                contestant.server.wait(contestant.asks[0])
                check_peer(contestant.server, contestant.asks[0], served, setups[contestant.name][1])
        with console.status(f"{served.name}: waiting for the service"), awake(own):
            own.wait(asked[EXACT_ROW][0])
            precision = own.post(asked[EXACT_ROW][0], 0).json()["precision"]
        yield contestants + [
            Contestant(name, "own", own, asks, precision, served.own_accuracy.get(name)) for name, asks in asked.items()
        ]


def _setups(served: Served, peers: Sequence[str], tuned: Sequence[Tried]) -> dict[str, tuple[str, Any]]:
    """The peers' names in tables, with the settings that tuning found best."""
    found = {}
    for peer in peers:
        for variants in (served.variants, [(NATIVE, "fp32")]):
            setup = tune.choose(tuned, served.name, peer, variants)
            name = f"{peer}, {RUNTIMES[setup.backend]} {setup.precision}"
            found[name] = (peer, setup)
            if served.name == HUGE and setup.backend != NATIVE:
                found[f"{name}, decoding whole"] = (peer, replace(setup, whole=True))
    return found


def _in_turns(
    what: str, contestants: Sequence[Contestant], rounds: int, console: Console, measure: Callable[[Contestant, int], T]
) -> dict[str, list[T]]:
    """What ``measure(contestant, round)`` gives: every contestant once a round, in an order that changes."""
    random = np.random.default_rng(0)
    found: dict[str, list[T]] = {one.name: [] for one in contestants}
    for number in range(rounds):
        for contestant in (contestants[index] for index in random.permutation(len(contestants))):
            with console.status(f"{what}, round {number + 1}: {contestant.name}"), awake(contestant.server):
                found[contestant.name].append(measure(contestant, number))
    return found


def main() -> None:
    """Run what the command line asks for."""
    options = results.command_line(
        serving.__doc__,
        results.argument("what", nargs="?", choices=("compare", "tune"), default="compare"),
        results.argument("--quick", action="store_true", help="a round of short turns: figures to look at only"),
        results.argument("--rounds", type=int, default=None),
        results.argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS)),
        results.argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), help="the others are left out"),
        results.argument("--images", type=Path, default=results.usual_data()),
        results.argument("--photographs", type=Path, help="a data set for the large network"),
        results.argument(
            "--twin", type=Path, help="the bundle of the small network's trained plain twin, for accuracies"
        ),
    ).parse_args()
    torch.set_num_threads(2)
    console = Console(width=None if sys.stdout.isatty() else 140)
    versions = _peers_versions(console)
    installed = [peer for peer in options.peers if versions[PROGRAMS[peer]] is not None]
    for peer in sorted(set(options.peers) - set(installed)):
        console.print(f"{peer} is left out: {PROGRAMS[peer]} is not installed among the peers")
    with console.status("bundles, plain twins and images"):
        made = serve_all(options.networks, options.images, options.twin, options.photographs)
    networks = [_with_runtimes(served, versions) for served in made]
    for served in networks:
        for variant, why in served.absent.items():
            console.print(f"{served.name}: {variant} is left out: {why}")
    if options.what == "tune":
        _tune(networks, installed, options.rounds or TUNE_ROUNDS, versions, console)
        return
    length = QUICK if options.quick else LONG
    if options.rounds is not None:
        length = replace(length, rounds=options.rounds)
    decoder = next(name for name in DECODERS if versions[name] is not None)
    for served in networks:
        peers = [peer for peer in installed if tune.is_tuned(tune.read(), served.name, peer, served.variants)]
        for missing in sorted(set(installed) - set(peers)):
            console.print(
                f"{missing} is left out: not tuned on {served.name} with every runtime and precision, "
                "see python -m benchmarks.serving tune",
                soft_wrap=True,
            )
        if not peers:
            continue
        figures = compare(served, peers, tune.read(), length, decoder, console)
        for table in report.tables(figures):
            console.print(table, "")
        name = f"serving/{served.name}" + ("-quick" if options.quick else "")
        console.print(results.write(name, {**figures, "absent": served.absent, "peers": versions}))


def _tune(networks: Sequence[Served], peers: Sequence[str], rounds: int, versions: Versions, console: Console) -> None:
    """Try all settings, and write them to the file that the comparison reads; after every peer, for it takes long."""
    for served in networks:
        for peer in peers:

            def attempt(name: str, setup: Setup, served: Served = served) -> Tried:
                tried = _try(served, name, setup)
                shown = f"{served.name} {name}, {setup.backend}, {setup}"
                console.print(
                    f"{shown}: {tried.answers_per_s:.1f} answers a second, {tried.quiet_per_s:.1f} on a quiet machine",
                    soft_wrap=True,
                )
                return tried

            known = tune.merge(tune.read(), tune.tune(served.name, peer, attempt, rounds, served.variants))
            content = {
                "seconds": TUNE_S,
                "rounds": rounds,
                "peers": versions,
                "tried": [asdict(one) for one in known],
            }
            results.write("serving/tuning", content)


def _try(served: Served, peer: str, setup: Setup) -> Tried:
    server, ask = start_peer(peer, setup, served), ask_peer(peer, served)
    found: list[Loaded] = []
    try:
        server.wait(ask)
        check_peer(server, ask, served, setup)
        while len(found) < ATTEMPTS and not any(one.others_cores < QUIET_CORES for one in found):
            found.append(load(Contestant(peer, "dense", server, (ask,)), Closed(IN_FLIGHT), TUNE_S))
    finally:
        server.close()
    quietest = min(found, key=lambda one: one.others_cores)
    left = 1 - quietest.others_cores / len(os.sched_getaffinity(0))
    return Tried(served.name, peer, setup, round(quietest.answers_per_s, 3), round(quietest.answers_per_s / left, 3))


def _with_runtimes(served: Served, versions: Versions) -> Served:
    """Without the variants of the twin whose runtime the peers do not have."""
    there = tuple(variant for variant in served.variants if versions[variant[0]] is not None)
    missing = {" ".join(variant): "not installed among the peers" for variant in set(served.variants) - set(there)}
    return replace(served, variants=there, absent={**served.absent, **missing})


def _peers_versions(console: Console) -> Versions:
    """Make the peers' virtual environment where there is none, and say what is in it; None is not installed."""
    python = peers_python()
    if not python.exists():
        with console.status(f"installing the peers into {python.parents[1]}"):
            subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
            subprocess.run([python, "-m", "pip", "install", "-q", "-r", REQUIREMENTS], check=True)
    question = (
        "import json, importlib.metadata as m; there = {d.name.lower(): d.version for d in m.distributions()}; "
        f"print(json.dumps({{p: there.get(p) for p in {PACKAGES}}}))"
    )
    done = subprocess.run([python, "-c", question], check=True, capture_output=True, text=True)
    versions: Versions = json.loads(done.stdout)
    return versions
