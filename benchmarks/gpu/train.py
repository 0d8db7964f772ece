"""Trains one row of the paper's tables on a GPU, its result files in a folder of the caller's.

python -m benchmarks.gpu.train OUT ROW[@EPOCHS] DATA [OPTION ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper.__main__ import PAGE, RUNS
from benchmarks.paper.__main__ import main as paper


def main(words: Sequence[str] | None = None, device: str = "cuda") -> None:
    """Train; OPTIONs are those of ``python -m benchmarks.paper``."""
    out, wanted, data, *options = sys.argv[1:] if words is None else words
    paper([*row(wanted), "--data", data, "--device", device, *options], found=Path(out) / "train", runs=RUNS, to=PAGE)


def row(wanted: str) -> list[str]:
    """``ROW@EPOCHS`` or ``ROW`` → words of the paper's command line."""
    name, _, epochs = wanted.partition("@")
    return [name, "--epochs", epochs] if epochs else [name]


if __name__ == "__main__":
    main()
