"""Fuzz one part: ``python -m tests.fuzz multipart|json|open-inference|decoders|int8 [--minutes M] [--seed N]``.

Ends with 1 and the smallest input at the first find. What is being tried lies in ``build/fuzz/<part>.bin``, also when
the process crashes.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import time
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, seed, settings

from tests.fuzz import decoders, int8, service

FOLDER = Path(__file__).parents[2] / "build" / "fuzz"
TARGETS = {
    "multipart": service.multipart,
    "json": service.json_bodies,
    "open-inference": service.open_inference,
    "decoders": decoders.target,
    "int8": int8.target,
}
EXAMPLES, LONGEST = 50, timedelta(seconds=30)


def fuzz(part: str, seconds: float, first_seed: int) -> int:
    """Try inputs for that long, and return how many.

    Raises:
        Exception: the find.

    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    file, tried = FOLDER / f"{part}.bin", 0

    def save(content: bytes) -> None:
        nonlocal tried
        tried += 1
        file.write_bytes(content)

    limits = settings(
        max_examples=EXAMPLES, database=None, deadline=LONGEST, suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )  # fmt: skip
    with TARGETS[part](save) as target:
        test, ends = limits(target), time.monotonic() + seconds
        while time.monotonic() < ends:
            seed(first_seed)(test)()
            first_seed += 1
    return tried


def main() -> int:
    """Run one part as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=sorted(TARGETS))
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    faulthandler.enable()
    print(f"{options.part}: {options.minutes:g} minutes from seed {options.seed}", flush=True)
    print(f"{fuzz(options.part, 60 * options.minutes, options.seed):,} inputs, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
