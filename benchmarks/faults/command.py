"""The command line: run the trials asked for, print a table, write the result file; status 1 if one is not passed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from benchmarks import faults, results
from benchmarks.faults import bundles, clients, crowd, device, ends, host, memory, mixed
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.scale import Scale
from benchmarks.models import command_line
from lccl import provenance
from lccl_client.load import allow_connections

FAMILIES = (mixed, clients, crowd, ends, device, bundles, host, memory)
TRIALS: dict[str, Callable[[Scale], Outcome]] = {
    name: trial for family in FAMILIES for name, trial in family.TRIALS.items()
}
QUICK_MINUTES = 0.25


def main() -> None:
    """Run what the command line asks for."""
    parser = command_line(faults.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TRIALS)}; without any, all")
    parser.add_argument("--minutes", type=float, default=None, help="of mixed load; 10, quick a quarter")
    parser.add_argument("--quick", action="store_true", help="small numbers, for a look; nothing is written")
    options = parser.parse_args()
    unknown = set(options.names) - set(TRIALS)
    if unknown:
        parser.error(f"no trial is called {', '.join(sorted(unknown))}")
    scale = Scale(options.minutes or (QUICK_MINUTES if options.quick else Scale().minutes), options.quick)
    console = Console(width=None if sys.stdout.isatty() else 140)
    allow_connections()
    found = {name: _try(name, scale, console) for name in options.names or TRIALS}
    console.print(_table(found))
    if not options.quick:
        command = " ".join(["python -m benchmarks.faults", *sys.argv[1:]])
        made = {"command": command, "commit": provenance.commit()}
        known = (results.read("faults") or {}) | {name: outcome.to_json() | made for name, outcome in found.items()}
        console.print(results.write("faults", command, {name: known[name] for name in TRIALS if name in known}))
    if not all(outcome.passed for outcome in found.values()):
        raise SystemExit(1)


def _try(name: str, scale: Scale, console: Console) -> Outcome:
    began = time.monotonic()
    with console.status(name):
        try:
            outcome = TRIALS[name](scale)
        except Exception as error:  # whatever a trial runs into is a fault, and the others are tried
            console.print_exception()
            outcome = Outcome("not tried to its end", faults=[f"{type(error).__name__}: {error}"])
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
