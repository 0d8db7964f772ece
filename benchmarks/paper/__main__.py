"""Trains rows of the paper's tables, each with its plain twin, and writes the tables.

    python -m benchmarks.paper ROW [ROW ...] --data PATH [--epochs N] [--images N] [--seed S ...] [--device cpu]
    python -m benchmarks.paper --rows cpu --data PATH
    python -m benchmarks.paper --table

Each row, seed and budget has a result file under benchmarks/results/paper; what has one is not trained again, and an
interrupted row goes on at its last epoch. ``--table`` writes docs/paper.md from the result files alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import results
from benchmarks.paper.rows import PRESETS, RESULTS, find
from benchmarks.paper.table import page
from benchmarks.paper.train import Options, train_rows
from lccl.errors import LcclError

PAGE = results.HOME / "docs" / "paper.md"
RUNS = results.HOME / "runs" / "paper"


def main(words: Sequence[str] | None = None, runs: Path = RUNS, to: Path = PAGE) -> None:
    """Train, then write the page, as far as either was asked for.

    Args:
        words: the command line's, without the program.
        runs: folder of the checkpoints.
        to: the page.

    """
    parser = results.command_line(
        __doc__,
        results.argument("names", nargs="*", metavar="ROW", help="see benchmarks/paper/rows.py"),
        results.argument("--rows", choices=PRESETS, help="the rows for one kind of machine"),
        results.argument("--data", type=Path, help="a data set with test images, as for `lccl train`"),
        results.argument("--epochs", type=int, help="default: the preset's, 10 for rows by name"),
        results.argument("--images", type=int, help="training images to take; default: all"),
        results.argument("--seed", type=int, nargs="+", help="default: the preset's, 0 for rows by name"),
        results.argument("--device", default="cpu", help="cpu, cuda or cuda:i"),
        results.argument("--compile", action="store_true", help="compile the network first"),
        results.argument("--threads", type=int, default=0, help="CPU threads; 0 takes one per core"),
        results.argument("--again", action="store_true", help="train rows that have a result, from the start"),
        results.argument("--results", type=Path, default=RESULTS, help="folder of the result files"),
        results.argument("--table", action="store_true", help="write docs/paper.md"),
    )
    asked = parser.parse_args(words)
    if not (asked.names or asked.rows or asked.table):
        parser.error("nothing to do: name rows, or give --rows or --table")
    try:
        if asked.names or asked.rows:
            _train(parser, asked, runs)
        if asked.table:
            to.write_text(page(asked.results), encoding="utf-8")
            print(to)
    except LcclError as error:
        parser.exit(1, f"error: {error}\n")


def _train(parser: argparse.ArgumentParser, asked: argparse.Namespace, runs: Path) -> None:
    preset = PRESETS[asked.rows or "cpu"]
    rows = [find(name) for name in (*asked.names, *(preset.runs if asked.rows else ()))]
    if asked.data is None:
        parser.error("training needs images: give --data")
    if asked.threads:
        torch.set_num_threads(asked.threads)
    train_rows(
        rows,
        Options(
            data=asked.data,
            epochs=asked.epochs or preset.epochs,
            images=asked.images,
            seeds=tuple(asked.seed or preset.seeds),
            device=asked.device,
            compile_network=asked.compile,
            again=asked.again,
            results=asked.results,
            runs=runs,
        ),
    )


if __name__ == "__main__":
    main()
