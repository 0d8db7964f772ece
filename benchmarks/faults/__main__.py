"""The command line: run the trials asked for, print a table, write the result file; status 1 if one is not passed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from benchmarks import faults, results
from benchmarks.faults import calls, clients, failures, fairness
from benchmarks.faults.outcome import Outcome, Scale
from benchmarks.server import Server
from lccl import provenance
from lccl_client.load import allow_connections

Trial = Callable[[Scale, Outcome], None]
TRIALS: dict[str, tuple[Trial, str]] = {
    "mixed": (
        clients.mixed,
        "mixed load in waves up to overload, a third of it malformed, and schemathesis beside it",
    ),
    "disconnects": (
        clients.disconnects,
        "clients leave at every stage of a request, with FIN or with RST, beside good load",
    ),
    "slow-loris": (clients.slow_loris, "connections that trickle heads or bodies, or do not read, beside good load"),
    "connections": (
        clients.many_connections,
        "5,000 connections: idle ones, active ones, then a request on each at once",
    ),
    "kill": (
        failures.kill_and_restart,
        "kill -9 and a restart on the same port, under load: answers are right or connections fail",
    ),
    "kill-one": (
        failures.kill_one,
        "kill -9 of one of two processes, under load: the other answers, and what was counted stays",
    ),
    "sigterm": (
        failures.sigterm,
        "SIGTERM under load, requests waiting and an upload under way: the accepted are answered",
    ),
    "engine": (
        failures.failing_engine,
        "the engine raises, runs out of memory, stalls or overflows on batches that hold a failing image",
    ),
    "out-of-memory": (
        failures.out_of_memory,
        "no address space is left for large images under load (RLIMIT_AS), then there is again",
    ),
    "corrupt-bundle": (
        failures.corrupt_bundle,
        "damaged bundles are loaded under load: refused, and the old version goes on; then a whole one",
    ),
    "full-disk": (
        failures.full_disk,
        "the log goes to a full disk, to a pipe that nobody reads, and to one that is closed",
    ),
    "clock-jump": (
        failures.clock_jump,
        "the calendar clock jumps under load with deadlines: nothing notices, and no rate begins anew",
    ),
    "greedy": (
        fairness.greedy,
        "beside a modest client a greedy one: large images, forms, hundreds of connections, work for a slow model",
    ),
    "grpc": (
        calls.mixed,
        "calls over gRPC: good ones, malformed ones, with deadlines, and left by their clients, beside load over HTTP",
    ),
    "grpc-flood": (
        calls.flood,
        "beside a modest client over HTTP one that keeps 400 calls over gRPC under way",
    ),
    "grpc-sigterm": (
        calls.drain,
        "SIGTERM while calls over gRPC wait: the accepted are answered, later ones are unavailable",
    ),
    "memory": (
        clients.flat_memory,
        "requests of all kinds with changing targets and ids from many addresses: memory stays flat",
    ),
}
QUICK_MINUTES = 0.25


def main() -> None:
    """Run what the command line asks for."""
    parser = results.command_line(
        faults.__doc__,
        results.argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TRIALS)}; without any, all"),
        results.argument("--minutes", type=float, default=None, help="of mixed load; 10, quick a quarter"),
        results.argument("--processes", type=int, default=1, help="that serve"),
        results.argument("--quick", action="store_true", help="small numbers, for a look; nothing is written"),
    )
    options = parser.parse_args()
    unknown = set(options.names) - set(TRIALS)
    if unknown:
        parser.error(f"no trial is called {', '.join(sorted(unknown))}")
    scale = Scale(options.minutes or (QUICK_MINUTES if options.quick else Scale().minutes), options.quick)
    Server.processes = options.processes
    console = Console(width=None if sys.stdout.isatty() else 140)
    allow_connections()
    found = {name: _try(name, scale, console) for name in options.names or TRIALS}
    console.print(_table(found))
    if not options.quick:
        made = {"command": provenance.command(), "commit": provenance.commit()}
        file = "faults" if options.processes == 1 else f"faults-{options.processes}-processes"
        known = (results.read(file) or {}) | {name: outcome.to_json() | made for name, outcome in found.items()}
        console.print(results.write(file, {name: known[name] for name in TRIALS if name in known}))
    if not all(outcome.passed for outcome in found.values()):
        raise SystemExit(1)


def _try(name: str, scale: Scale, console: Console) -> Outcome:
    began = time.monotonic()
    trial, what = TRIALS[name]
    outcome = Outcome(what)
    with console.status(name):
        try:
            trial(scale, outcome)
        except Exception as error:  # whatever a trial runs into is a fault, and the others are tried
            console.print_exception()
            outcome.faults.append(f"not tried to its end: {type(error).__name__}: {error}")
    outcome.seconds = time.monotonic() - began
    console.print(f"{name}: {'passed' if outcome.passed else 'FAILED'} after {outcome.seconds:.0f} s")
    for fault in outcome.faults:
        console.print(f"  {fault}", style="red", markup=False)
    console.print(f"  {outcome.figures}", style="dim", markup=False)
    return outcome


def _table(found: dict[str, Outcome]) -> Table:
    table = Table("trial", *(("sent", "answered", "failed", "left", "wrong", "lost", "")))
    for name, outcome in found.items():
        counts = outcome.counts
        answered = ", ".join(f"{count:,} × {status}" for status, count in counts.answered.most_common())
        numbers = (counts.failed, counts.abandoned, counts.wrong, counts.lost)
        table.add_row(
            name, f"{counts.sent:,}", answered, *map("{:,}".format, numbers), "passed" if outcome.passed else "FAILED"
        )
    return table


if __name__ == "__main__":
    main()
