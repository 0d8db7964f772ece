"""The tables of docs/training.md and docs/sidenet.md: results of ``any_sparsity``, ``recipes``, ``one_ratio``,
``threshold_paths``, ``early_exits`` and ``recalibration``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from benchmarks import results

Figures = dict[str, Any]
Table = Callable[[Figures], Iterator[str]]
END = "the network's end"


def tables() -> dict[str, Iterator[str]]:
    """The tables whose results are there, by the name of their place in the page."""
    recipes = [results.read(f"recipes/{file.stem}") for file in sorted((results.FOLDER / "recipes").glob("*.json"))]
    made = {
        name: make(figures)
        for file in FILES
        if (figures := results.read(file))
        for name, make in FILES[file].items()
        if name != "attached" or "attached" in figures
    }
    return made | ({"recipes": recipes_table([each for each in recipes if each])} if recipes else {})


def lost_table(result: Figures) -> Iterator[str]:
    """Points lost against the plain twin at each skip ratio, and what was aimed at."""
    yield from table("skip ratio", "accuracy %", "lost against the plain twin, points (95 %)", "aim", "")
    for row in result["lost"]:
        if "out_of_reach" in row:
            yield f"| {row['skip_ratio']:g} | – | beyond the last point, {row['out_of_reach']:.2f} | – | missed |"
            continue
        yield (
            f"| {row['skip_ratio']:g} | {100 * row['accuracy']:.1f} | {paired(row['lost'], row['interval'])} | "
            f"≤ {row['goal']:g} | {_verdict(row)} |"
        )


def removal_table(result: Figures) -> Iterator[str]:
    """Skipping beside whole branches removed at no fewer MACs."""
    return table(
        "skip ratio",
        "M MACs",
        "accuracy %",
        "branches removed: M MACs, accuracy %",
        "ahead, points (95 %)",
        "vary",
        rows=(
            f"| {row['skip_ratio']:g} | {row['macs'] / 1e6:.1f} | {100 * row['accuracy']:.1f} | "
            f"{len(row['removed_blocks'])}: {row['removed_macs'] / 1e6:.1f}, {100 * row['removed_accuracy']:.1f} | "
            f"{paired(row['ahead'], row['interval'])} | {row['layers_that_vary']} of {row['layers']} |"
            for row in result["removal"]
        ),
    )


def floors_table(result: Figures) -> Iterator[str]:
    """What each ``max_accuracy_drop`` is served with, and what that loses on images nobody has seen."""
    return table(
        "`max_accuracy_drop`",
        "point",
        "skip ratio",
        "lost on the test images, points (95 %)",
        "",
        rows=(
            f"| {row['floor']:g} | {row['point']} | {row['skip_ratio']:.2f} | "
            f"{paired(row['lost'], row['interval'])} | {'kept' if row['met'] else 'broken'} |"
            for row in result["floors"]
        ),
    )


def attached_table(result: Figures) -> Iterator[str]:
    """A network that began as a plain one, beside the one trained with gates."""
    yield from table("skip ratio", "trained with gates %", "attached %", "behind, points (95 %)", "aim", "")
    for row in result["attached"]:
        if "out_of_reach" in row:
            yield f"| {row['skip_ratio']:g} | – | – | beyond the last point, {row['out_of_reach']:.2f} | | |"
            continue
        verdict = ("", "") if row["goal"] is None else (f"≤ {row['goal']:g}", _verdict(row | {"lost": row["behind"]}))
        yield (
            f"| {row['skip_ratio']:g} | {100 * row['trained_in_accuracy']:.1f} | {100 * row['accuracy']:.1f} | "
            f"{paired(row['behind'], row['interval'])} | {verdict[0]} | {verdict[1]} |"
        )


def one_ratio_table(result: Figures) -> Iterator[str]:
    """One network for every ratio beside networks for one alone, at equal budgets."""
    return table(
        "skip ratio",
        "trained for every ratio %",
        "for this one alone %",
        "ahead, points (95 %)",
        "",
        rows=(
            f"| {row['skip_ratio']:g} | {100 * row['accuracy']:.1f} | {100 * row['alone_accuracy']:.1f} | "
            f"{paired(row['ahead'], row['interval'])} | {'not below' if row['met'] else 'below'} |"
            for row in result["rows"]
        ),
    )


def recipes_table(runs: list[Figures]) -> Iterator[str]:
    """What was tried, at equal budgets: accuracy on held-out images along calibration's way."""
    ratios = _reached_by_any(runs)
    return table(
        "variant",
        "seed",
        "exact",
        *ratios,
        "layers that vary at 0.45",
        rows=(
            f"| {result['description']} | {result['seed']} | {_along(result, ratios)} |"
            for result in sorted(runs, key=lambda one: (one["variant"] != "path", one["variant"], one["seed"]))
        ),
    )


def paths_table(result: Figures) -> Iterator[str]:
    """The same weights under other thresholds: accuracy on held-out images along each way."""
    ratios = _reached_by_any(result["ways"])
    return table(
        "thresholds",
        "exact",
        *ratios,
        "layers that vary at 0.45",
        rows=(f"| {way['way']} | {_along(way, ratios)} |" for way in result["ways"]),
    )


def fronts_table(result: Figures) -> Iterator[str]:
    """Accuracy at equal work of gates and exits together, and of either alone."""
    yield from table(
        "MACs / plain", "both, %", "gates alone, %", "ahead, points (95 %)", "exits alone, %", "ahead, points (95 %)"
    )
    for row in result["curves"]:
        cells = [f"{row['work']:g}", percent(row["both"])]
        for name in ("gates", "exits"):
            ahead, interval = row[f"ahead_of_{name}"], row[f"interval_{name}"]
            cells += [percent(row[name]), "–" if ahead is None else paired(ahead, interval)]
        yield f"| {' | '.join(cells)} |"


def exits_table(result: Figures) -> Iterator[str]:
    """What each exit is worth on the test images if all of them took it."""
    return table(
        "exit",
        "accuracy %",
        "expected calibration error %",
        "aim",
        "",
        rows=(
            f"| {END if row['exit'] == 'end' else row['exit']} | {100 * row['accuracy']:.1f} | "
            f"{100 * row['calibration_error']:.1f} | ≤ {100 * row['goal']:g} | {_reached(row)} |"
            for row in result["exits"]
        ),
    )


def saved_table(result: Figures) -> Iterator[str]:
    """Work at no loss against exact, and time at half of exact's work."""
    (free,), (half,) = result["no_loss"], result["latency"]
    low, middle, high = half["quartiles"]
    lost = f"{free['point']}; on the test images {paired(free['lost'], free['interval'])} points"
    batch = f"{half['point']}, batch {half['batch']}, {half['threads']} threads; quartiles {low:.2f} – {high:.2f}"
    yield from table("", "measured", "aim", "")
    yield (
        f"| exact's MACs at the sparsest point that may lose nothing by the table ({lost}) | {free['work']:.2f} | "
        f"≤ {free['goal']:g} at no loss | {_reached(free)} |"
    )
    yield (
        f"| exact's time at {half['macs']:.2f} of its MACs ({batch}) | {middle:.2f} | ≤ {half['goal']:g} | "
        f"{_reached(half)} |"
    )


def _reached_by_any(rows: list[Figures]) -> list[str]:
    return max((list(row["accuracy_at"]) for row in rows), key=len)


def _along(row: Figures, ratios: list[str]) -> str:
    at = (percent(row["accuracy_at"].get(ratio)) for ratio in ratios)
    varying = f"{row['layers_that_vary_at_0.45']} of {row['layers']}"
    return " | ".join((percent(row["exact_accuracy"]), *at, varying))


def table(*columns: str, rows: Iterable[str] = ()) -> Iterator[str]:
    """A Markdown table, or its first two lines; rows are lines."""
    yield "|" + "".join(f" {name} |" if name else " |" for name in columns)
    yield "|" + "---|" * len(columns)
    yield from rows


def recalibration_table(result: Figures) -> Iterator[str]:
    """The points of the table before that changed, and what the new one has at their MACs."""
    return table(
        "point before", "skip ratio", "MACs, % of the plain twin's", "accuracy before %", "after %",
        "ahead, points (95 %)",
        rows=(
            f"| {row['point']} | {row['skip_ratio']:.3f} | {100 * row['work']:.1f} | {100 * row['before']:.2f} | "
            f"{100 * row['after']:.2f} | {paired(row['ahead'], row['interval'])} |"
            for row in result["rows"]
            if not row["same"]
        ),
    )  # fmt: skip


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _reached(row: Figures) -> str:
    return "reached" if row["met"] else "missed"


def paired(value: float, interval: list[float]) -> str:
    return f"{value:+.2f} ({interval[0]:+.2f} – {interval[1]:+.2f})"


def _verdict(row: Figures) -> str:
    if row["lost"] <= row["goal"]:
        return "reached"
    return "not excluded" if row["met"] else "missed"


FILES: Mapping[str, Mapping[str, Table]] = {
    "any_sparsity": {"lost": lost_table, "removal": removal_table, "floors": floors_table, "attached": attached_table},
    "one_ratio": {"one_ratio": one_ratio_table},
    "threshold_paths": {"paths": paths_table},
    "recalibration": {"recalibration": recalibration_table},
    "early_exits": {"fronts": fronts_table, "exits": exits_table, "saved": saved_table},
}
