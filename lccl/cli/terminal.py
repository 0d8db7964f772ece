"""What the command lines share: how they print, count and fail."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
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
Report = Callable[[str, int, int, dict[str, float]], None]
LINE_EVERY_S, STEPS_APART, NAMED = 60.0, 10, 5
WAITED_FOR = {"search": "searching the curve: {done} moves", "measure": "measuring: {done:,} of {of:,} images"}
MALLOC = {-3: 2_000_000_000, -1: 2_147_483_647, -2: 200_000_000}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD

MODEL = "A network by name, or a bundle's folder; a folder called like a network is written ./resnet20."
Data = Annotated[
    Path,
    typer.Argument(help="A folder train/<class>/<image> or <class>/<image>, a .tar of one, or CIFAR's binary folder."),
]
Cache = Annotated[
    Path | None, typer.Option(help="A folder for decoded images, which saves decoding them again; may be removed.")
]
BundleFolder = Annotated[Path, typer.Argument(help="A bundle's folder.")]
NewBundle = Annotated[Path, typer.Option("--out", help="Where the bundle goes.")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 takes one per core.")]


def load_data(path: Path, preprocessing: Any, cache: Path | None = None) -> Dataset:
    """Read a data set, with a line that says so."""
    from lccl.data import load_dataset

    with working(f"reading {path}") as update:
        return load_dataset(
            path, preprocessing, cache=cache, progress=lambda done, of: update(f"reading {path}: {done:,} of {of:,}")
        )


def say_skipped(dataset: Dataset) -> None:
    """What could not be read of a data set, at a run's end: how many files, and the first of them by name."""
    if not dataset.skipped:
        return
    count = len(dataset.skipped)
    files = "1 file was" if count == 1 else f"{count:,} files were"
    named = "\n  ".join(dataset.skipped[:NAMED])
    more = f"\n  and {count - NAMED:,} more" if count > NAMED else ""
    text = f"{files} skipped, as they cannot be read:\n  {named}{more}"
    console.print(f"[yellow]warning[/yellow] {escape(text)}", highlight=False, soft_wrap=True)


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """A line that changes in a terminal, elsewhere one at the start and then one a minute; yields what changes it."""
    if console.is_terminal:
        with console.status(what) as status:
            yield status.update
        return
    lines = _Lines()
    lines.say(what)
    yield lines.say


class _Lines:
    """Prints a line where a minute has passed since the last one."""

    def __init__(self) -> None:
        self._last = -math.inf

    def say(self, line: str) -> None:
        if time.monotonic() - self._last >= LINE_EVERY_S:
            self._last = time.monotonic()
            console.print(line, highlight=False, soft_wrap=True, markup=False)


def use_threads(threads: int) -> None:
    """PyTorch's own; 0 leaves them, as far as a quota allows them."""
    import torch

    from lccl.engines.cpu.cores import usable_cores

    torch.set_num_threads(threads or min(torch.get_num_threads(), usable_cores()))


def keep_freed_memory() -> None:
    """Have glibc keep blocks that are freed: training asks for the same large ones again in every step.

    Without that it gives them back to the system each time, and their pages have to be zeroed anew.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    for parameter, size in MALLOC.items():
        mallopt(parameter, size)


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Errors that the user can correct end the command with one sentence instead of a traceback."""
    try:
        yield
    except LcclError as error:
        console.print(f"[red]error[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for ``total`` things, elsewhere lines; yields a function that is told how many more are done."""
    if not console.is_terminal:
        lines, done = _Lines(), 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            lines.say(f"{what}: {done:,} of {total:,}")

        yield count
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def training_progress(tensorboard: Path | None = None) -> Iterator[Report]:
    """A bar for the steps in a terminal, elsewhere a line a minute, and a line for each epoch.

    Yields what training reports to, which also writes to ``tensorboard``, if that is given.
    """
    write = _tensorboard(tensorboard) if tensorboard else lambda *_: None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    lines, first = _Lines(), (0, 0.0)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=None)

        def report(kind: str, done: int, of: int, figures: dict[str, float]) -> None:
            nonlocal first
            if kind in WAITED_FOR:
                told = WAITED_FOR[kind].format(done=done, of=of)
                if console.is_terminal:
                    progress.update(task, description=told)
                else:
                    lines.say(told)
                return
            write(kind, done, of, figures)
            if kind == "epoch":
                shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
                progress.console.print(f"epoch {done}/{of}  {shown}", highlight=False, soft_wrap=True)
            elif console.is_terminal:
                progress.update(task, completed=done, total=of, description=f"loss {figures['loss']:.3f}")
            else:
                first = first if first[0] else (done, time.monotonic())
                steps = done - first[0]  # the first one may have waited for a compiler
                left = (time.monotonic() - first[1]) / steps * (of - done) if steps else 0.0
                about = f"  about {timedelta(seconds=round(left))} left" if steps else ""
                lines.say(f"step {done:,}/{of:,}  loss {figures['loss']:.3f}{about}")

        yield report


def _tensorboard(folder: Path) -> Report:
    """Writes every tenth step's figures and every epoch's."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise LcclError("--tensorboard needs the package tensorboard: pip install 'lccl[tensorboard]'") from error
    writer = SummaryWriter(str(folder))

    def write(kind: str, done: int, _of: int, figures: dict[str, float]) -> None:
        if kind == "epoch" or done % STEPS_APART == 0:
            for name, value in figures.items():
                writer.add_scalar(f"{kind}/{name}", value, done)
            writer.flush()

    return write


def save_with_self_test(bundle: lccl.Bundle, folder: Path) -> None:
    """Save a bundle with the reference engine's answers as its self-test, in every precision that has points."""
    from lccl.bundle.self_test import record

    def recorded(precision: str) -> dict[str, Any]:
        engine = lccl.compile(bundle, "cpu", precision, engine="reference")
        return record(bundle.in_precision(precision), engine)

    int8 = bundle.int8
    if int8 is not None and int8.table is not None:
        int8 = replace(int8, self_test=recorded("int8"))
    lccl.save(replace(bundle, self_test=recorded("fp32"), int8=int8), folder)


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
