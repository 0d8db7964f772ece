"""``python -m benchmarks.photographs``."""

from __future__ import annotations

from pathlib import Path

from benchmarks import photographs, results
from benchmarks.photographs import RESULT, TIMES
from benchmarks.photographs.comparison import compare
from benchmarks.photographs.families import NAMES
from benchmarks.photographs.measuring import Bench, load_bundles
from benchmarks.photographs.timing import times
from lccl.errors import LcclError


def main() -> None:
    """Compare or take times, print, write the result file."""
    options = results.command_line(
        photographs.__doc__,
        results.argument("data", type=Path),
        results.argument("--models", type=Path, default=Path("models")),
        results.argument("--cache", type=Path, help="a folder for decoded images"),
        results.argument("--threads", type=int, default=0),
        results.argument("--time", action="store_true"),
        results.argument("--rounds", type=int, default=11),
    ).parse_args()
    bundles, missing = load_bundles(options.models, NAMES)
    bench = Bench(bundles, options.data, options.cache, options.threads)
    digests = {name: bundle.digest for name, bundle in bundles.items()}
    if not options.time:
        results.publish(
            RESULT, {"bundles": digests, "not_run": [{"network": name} for name in missing]} | compare(bench)
        )
        return
    figures = results.read(RESULT)
    if figures is None or figures["bundles"] != digests:
        raise LcclError("times are taken of what was compared: run this without --time first, on the same bundles")
    rows = times(bench, figures, options.rounds)
    results.publish(TIMES, {"bundles": digests, "threads": options.threads, "rounds": options.rounds, "rows": rows})


if __name__ == "__main__":
    main()
