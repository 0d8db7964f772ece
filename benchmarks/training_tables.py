"""The tables of docs/training.md, from the results of ``any_sparsity`` and ``recipes``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ANY_SPARSITY, RECIPES = RESULTS / "any_sparsity.json", RESULTS / "recipes"


def tables() -> dict[str, Iterator[str]]:
    """The tables whose results are there, by the name of their place in the page."""
    found: dict[str, Iterator[str]] = {}
    if ANY_SPARSITY.is_file():
        result = json.loads(ANY_SPARSITY.read_text(encoding="utf-8"))
        found |= {"lost": lost_table(result), "removal": removal_table(result), "floors": floors_table(result)}
    recipes = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RECIPES.glob("*.json"))]
    if recipes:
        found["recipes"] = recipes_table(recipes)
    return found


def lost_table(result: dict[str, Any]) -> Iterator[str]:
    """Points lost against the plain twin at each skip ratio, and what was aimed at."""
    yield "| skip ratio | accuracy % | lost against the plain twin, points (95 %) | aim | |"
    yield "|---|---|---|---|---|"
    for row in result["lost"]:
        if "out_of_reach" in row:
            yield f"| {row['skip_ratio']:g} | – | beyond the last point, {row['out_of_reach']:.2f} | – | missed |"
            continue
        yield (
            f"| {row['skip_ratio']:g} | {100 * row['accuracy']:.1f} | {_paired(row['lost'], row['interval'])} | "
            f"≤ {row['goal']:g} | {_verdict(row)} |"
        )


def removal_table(result: dict[str, Any]) -> Iterator[str]:
    """Skipping beside whole branches removed at no fewer MACs."""
    yield "| skip ratio | M MACs | accuracy % | branches removed: M MACs, accuracy % | ahead, points (95 %) | vary |"
    yield "|---|---|---|---|---|---|"
    for row in result["removal"]:
        yield (
            f"| {row['skip_ratio']:g} | {row['macs'] / 1e6:.1f} | {100 * row['accuracy']:.1f} | "
            f"{len(row['removed_blocks'])}: {row['removed_macs'] / 1e6:.1f}, {100 * row['removed_accuracy']:.1f} | "
            f"{_paired(row['ahead'], row['interval'])} | {row['layers_that_vary']} of {row['layers']} |"
        )


def floors_table(result: dict[str, Any]) -> Iterator[str]:
    """What each ``max_accuracy_drop`` is served with, and what that loses on pictures nobody has seen."""
    yield "| `max_accuracy_drop` | point | skip ratio | lost on the test pictures, points (95 %) | |"
    yield "|---|---|---|---|---|"
    for row in result["floors"]:
        kept = "kept" if row["met"] else "broken"
        lost = _paired(row["lost"], row["interval"])
        yield f"| {row['floor']:g} | {row['point']} | {row['skip_ratio']:.2f} | {lost} | {kept} |"


def recipes_table(results: list[dict[str, Any]]) -> Iterator[str]:
    """What was tried, at equal budgets: accuracy on held-out pictures along calibration's way."""
    ratios = max((list(result["accuracy_at"]) for result in results), key=len)
    yield f"| variant | seed | exact | {' | '.join(ratios)} | layers that vary at 0.45 |"
    yield "|---|---|---|" + "---|" * len(ratios) + "---|"
    for result in sorted(results, key=lambda one: (one["variant"] != "path", one["variant"], one["seed"])):
        at = (
            f"{100 * result['accuracy_at'][ratio]:.1f}" if ratio in result["accuracy_at"] else "–" for ratio in ratios
        )
        yield (
            f"| {result['description']} | {result['seed']} | {100 * result['exact_accuracy']:.1f} | "
            f"{' | '.join(at)} | {result['layers_that_vary_at_0.45']} of {result['layers']} |"
        )


def _paired(value: float, interval: list[float]) -> str:
    return f"{value:+.2f} ({interval[0]:+.2f} – {interval[1]:+.2f})"


def _verdict(row: dict[str, Any]) -> str:
    if row["lost"] <= row["goal"]:
        return "reached"
    return "not excluded" if row["met"] else "missed"
