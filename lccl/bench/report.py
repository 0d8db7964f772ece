"""A benchmark's figures as tables for people, and its progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table


def tables(figures: Mapping[str, Any]) -> list[Table]:
    """Figures as tables: end to end, by skip ratio, scaling over threads, and layer by layer."""
    shown = [_end_to_end(figures), _by_skip_ratio(figures)]
    if figures["scaling"]:
        rows = ((row["name"], str(row["from"]), str(row["to"]), f"{row['speed_up']:.2f}") for row in figures["scaling"])
        shown.append(new_table("Threads", "contestant", "from", "to", "times as fast", rows=rows))
    if "layers" in figures:
        shown.append(_by_layer(figures))
    return shown


@contextmanager
def showing(console: Console) -> Iterator[Callable[[str, int], Callable[[], None]]]:
    """Show the stages of a benchmark as progress bars while it runs; each has its name and its number of turns."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        yield lambda what, turns: partial(progress.advance, progress.add_task(what, total=turns))


def _end_to_end(figures: Mapping[str, Any]) -> Table:
    what = "{model}, batch {batch}, {precision}, threads {threads}, {source}".format_map(figures)
    table = new_table(
        what,
        "contestant", "median ms", "p20", "p80", "speed / best baseline",
    )  # fmt: skip
    for row in figures["contestants"]:
        if row["absent"] is not None:
            table.add_row(row["name"], f"[dim]{row['absent']}")
        else:
            times = (f"{row[key]:.3f}" for key in ("median_ms", "p20_ms", "p80_ms"))
            table.add_row(row["name"], *times, _or_dash(row["speed_against_best_baseline"], ".2f"))
    return table


def _by_skip_ratio(figures: Mapping[str, Any]) -> Table:
    return new_table(
        f"dense {figures['dense_macs'] / 1e6:.1f} M MACs; best dense: {figures['best_dense']}",
        "wanted", "skipped", "left early", "gated MACs / dense", "executed / dense", "time / own dense", "realised",
        "speed-up / own dense", "/ best dense", "/ best baseline",
        rows=(
            (
                row["name"], f"{row['skip_reached']:.3f}", _or_dash(row.get("left_early"), ".3f"),
                f"{row['macs_share']:.3f}", f"{row['executed_macs'] / figures['dense_macs']:.3f}",
                f"{row['time_share']:.3f}", _or_dash(row["realised"], ".2f"),
                f"{row['speed_up_against_own_dense']:.2f}", f"{row['speed_up_against_best_dense']:.2f}",
                _or_dash(row["speed_up_against_best_baseline"], ".2f"),
            )
            for row in figures["settings"]
        ),
    )  # fmt: skip


def _by_layer(figures: Mapping[str, Any]) -> Table:
    everything, *closed = (row["name"] for row in figures["settings"])  # the first skips nothing
    columns = [column for name in closed for column in (f"t({name})", "skipped", "realised")]
    table = new_table(
        "Layers: times are shares of own dense", "step", "M MACs", "dense ms", "GMAC/s", "t(−∞)", *columns
    )
    for row in figures["layers"]:
        cells = []
        for name in closed:
            entry = row["settings"][name]
            cells += [
                _or_dash(entry["time_share"], ".2f"), _or_dash(entry.get("skip_ratio"), ".3f"),
                _or_dash(entry.get("realised"), ".2f"),
            ]  # fmt: skip
        table.add_row(
            row["step"], f"{row['macs'] / 1e6:.2f}", _or_dash(row["dense_ms"], ".3f"),
            _or_dash(row["dense_gmacs_per_s"] if row["macs"] else None, ".1f"),
            _or_dash(row["settings"][everything]["time_share"], ".2f"), *cells,
        )  # fmt: skip
    apart, cells = figures["last_stage_apart"], []
    for name in closed:
        cells += [f"{apart[name]['time_share']:.2f}", "", _or_dash(apart[name]["realised"], ".2f")]
    table.add_section()
    table.add_row("last stage apart", "", "", "", f"{apart[everything]['time_share']:.2f}", *cells)
    return table


def new_table(title: str, *columns: str, rows: Iterable[Iterable[str]] = ()) -> Table:
    """A table whose first column is text and whose others are figures; rows are cells."""
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
