"""The command line: measure the networks asked for, or tune the peers; print tables and write the result files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import results, serving
from benchmarks.models import command_line
from benchmarks.serving import report, tune
from benchmarks.serving.check import check_peer
from benchmarks.serving.comparison import Length, compare
from benchmarks.serving.measure import IN_FLIGHT, Contestant, Loaded, load
from benchmarks.serving.servers import Setup, ask_peer, peers_python, start_peer
from benchmarks.serving.tune import PEERS, Tried
from benchmarks.serving.workload import NETWORKS, Served, serve_all
from lccl_client.load import Closed

REQUIREMENTS = Path(__file__).parent / "requirements-peers.txt"
PACKAGES = ("litserve", "bentoml", "ray", "fastapi", "uvicorn", "onnxruntime", "openvino", "numpy", "simplejpeg")
LONG = Length(rounds=3, seconds=4.0, tail_seconds=8.0, alone_seconds=2.0)
QUICK = Length(rounds=1, seconds=1.5, tail_seconds=2.0, alone_seconds=0.5)
TUNE_S, TUNE_ROUNDS = 6.0, 1
ATTEMPTS, QUIET_CORES = 3, 0.3  # what other processes may take of a machine that tells one setting from another


def main() -> None:
    """Run what the command line asks for."""
    parser = command_line(serving.__doc__)
    parser.add_argument("what", nargs="?", choices=("compare", "tune"), default="compare")
    parser.add_argument("--quick", action="store_true", help="a round of short turns: figures to look at only")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), help="the others are left out")
    parser.add_argument("--images", type=Path, default=results.usual_data())
    options = parser.parse_args()
    torch.set_num_threads(2)
    console = Console(width=None if sys.stdout.isatty() else 140)
    versions = _peers_versions(console)
    with console.status("bundles, plain twins and images"):
        networks = serve_all(options.networks, options.images)
    if options.what == "tune":
        _tune(networks, options.peers, options.rounds or TUNE_ROUNDS, versions, console)
        return
    length = QUICK if options.quick else LONG
    if options.rounds is not None:
        length = replace(length, rounds=options.rounds)
    for served in networks:
        peers = [peer for peer in options.peers if tune.is_tuned(tune.read(), served.name, peer)]
        for missing in sorted(set(options.peers) - set(peers)):
            console.print(f"{missing} is left out: never tuned on {served.name}, see python -m benchmarks.serving tune")
        if not peers:
            continue
        figures = compare(served, peers, tune.read(), length, console)
        for table in report.tables(figures):
            console.print(table, "")
        name = f"serving/{served.name}" + ("-quick" if options.quick else "")
        console.print(results.write(name, _command(), {**figures, "peers": versions}))


def _tune(
    networks: Sequence[Served], peers: Sequence[str], rounds: int, versions: dict[str, str], console: Console
) -> None:
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

            known = tune.merge(tune.read(), tune.tune(served.name, peer, attempt, rounds))
            content = {
                "seconds": TUNE_S,
                "rounds": rounds,
                "peers": versions,
                "tried": [one.to_json() for one in known],
            }
            results.write("serving/tuning", _command(), content)


def _try(served: Served, peer: str, setup: Setup) -> Tried:
    server, ask = start_peer(peer, setup, served), ask_peer(peer, served)
    found: list[Loaded] = []
    try:
        server.wait(ask)
        check_peer(server, ask, served)
        while len(found) < ATTEMPTS and not any(one.others_cores < QUIET_CORES for one in found):
            found.append(load(Contestant(peer, "dense", server, (ask,)), Closed(IN_FLIGHT), TUNE_S))
    finally:
        server.close()
    return _tried(served, peer, setup, min(found, key=lambda one: one.others_cores))


def _tried(served: Served, peer: str, setup: Setup, found: Loaded) -> Tried:
    left = 1 - found.others_cores / len(os.sched_getaffinity(0))
    return Tried(served.name, peer, setup, round(found.answers_per_s, 3), round(found.answers_per_s / left, 3))


def _peers_versions(console: Console) -> dict[str, str]:
    """Make the peers' virtual environment where there is none, and say what is in it."""
    python = peers_python()
    if not python.exists():
        with console.status(f"installing the peers into {python.parents[1]}"):
            subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
            subprocess.run([python, "-m", "pip", "install", "-q", "-r", REQUIREMENTS], check=True)
    question = f"import json, importlib.metadata as m; print(json.dumps({{p: m.version(p) for p in {PACKAGES}}}))"
    done = subprocess.run([python, "-c", question], check=True, capture_output=True, text=True)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


def _command() -> str:
    return " ".join(["python -m benchmarks.serving", *sys.argv[1:]])
