"""What the command lines share: how they print, count and fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

import lccl
from lccl.errors import LcclError

if TYPE_CHECKING:
    from lccl.data import Dataset

console = Console()

MODEL = "A network by name, or a bundle's folder; a folder called like a network is written ./resnet20."
Data = Annotated[Path, typer.Argument(help="CIFAR's binary folder, a folder train/<class>/<image>, or a .tar of one.")]
BundleFolder = Annotated[Path, typer.Argument(help="A bundle's folder.")]
NewBundle = Annotated[Path, typer.Option("--out", help="Where the bundle goes.")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 takes one per core.")]


def load_data(path: Path, preprocessing: Any) -> Dataset:
    """Read a data set, with a line that says so."""
    from lccl.data import load_dataset

    with console.status(f"reading {path}"):
        return load_dataset(path, preprocessing)


def use_threads(threads: int) -> None:
    """PyTorch's own; 0 leaves them, as far as a quota allows them."""
    import torch

    from lccl.engines.cpu.cores import usable_cores

    torch.set_num_threads(threads or min(torch.get_num_threads(), usable_cores()))


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Errors that the user can correct end the command with one sentence instead of a traceback."""
    try:
        yield
    except LcclError as error:
        console.print(f"[red]error[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


@contextmanager
def counting(what: str, total: int) -> Iterator[Any]:
    """A bar for ``total`` things; yields a function that is told how many more are done."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def training_progress() -> Iterator[Any]:
    """A bar for the steps and a line for each epoch; yields what training reports to."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=None)

        def report(kind: str, done: int, of: int, figures: dict[str, float]) -> None:
            if kind == "step":
                progress.update(task, completed=done, total=of, description=f"loss {figures['loss']:.3f}")
            else:
                shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
                progress.console.print(f"epoch {done}/{of}  {shown}", highlight=False)

        yield report


def save_with_self_test(bundle: lccl.Bundle, folder: Path) -> None:
    """Save a bundle with the reference engine's answers as its self-test."""
    from lccl.bundle.self_test import record

    engine = lccl.compile(bundle, "cpu", engine="reference")
    lccl.save(replace(bundle, self_test=record(bundle, engine)), folder)


def print_table(columns: tuple[str, ...], rows: Iterable[tuple[str | None, ...]]) -> None:
    """A table of figures."""
    table = Table(*(Column(name, justify="right") for name in columns), box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_points(bundle: lccl.Bundle) -> None:
    """A bundle's operating points."""
    print_table(
        ("point", "skip ratio", "accuracy", "drop (points)", "drop at most", "gated MACs"),
        (
            (
                point.name, f"{point.skip_ratio:.3f}", f"{point.accuracy:.4f}", f"{point.drop:.2f}",
                f"{point.drop_bound:.2f}", f"{point.gated_macs / 1e6:.2f} M",
            )
            for point in bundle.table.points
        ),
    )  # fmt: skip
