"""What commands share: command lines; result files with the commit, machine and versions; and rows as tables."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lccl import provenance
from lccl.bench.report import new_table

HOME = Path(__file__).parents[1]
FOLDER = Path(__file__).parent / "results"
DATA = HOME.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"


Argument = tuple[str, dict[str, Any]]


def argument(name: str, **settings: Any) -> Argument:
    """An argument for :func:`command_line`, as ``add_argument`` takes it."""
    return name, settings


def command_line(description: str | None, *arguments: Argument) -> argparse.ArgumentParser:
    """A parser that prints a module's docstring as it is."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, settings in arguments:
        parser.add_argument(name, **settings)
    return parser


def write(name: str, figures: Mapping[str, Any]) -> Path:
    """Write ``results/<name>.json`` and return its path."""
    return provenance.write(FOLDER / f"{name}.json", dict(figures))


def read(name: str) -> dict[str, Any] | None:
    """The content of ``results/<name>.json``; None where there is no such file."""
    file = FOLDER / f"{name}.json"
    content: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return content


def usual_data() -> Path | None:
    """The data set that images are taken from when none is named; None where it is not there."""
    return DATA if DATA.exists() else None


def publish(name: str, figures: Mapping[str, Any]) -> None:
    """Print those of a result's values that are lists of rows, each under its name, and write the result file."""
    for title, rows in figures.items():
        if isinstance(rows, list):
            print_rows(rows, title)
    print(write(name, figures))


def print_rows(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print rows as a table; its columns are their keys."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    heads = (column.replace("_", " ") for column in columns)
    cells = ([_text(row.get(column, "")) for column in columns] for row in rows)
    Console(width=None if Console().is_terminal else 200).print(new_table(title, *heads, rows=cells))


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(map(_text, value))
    return str(value)
