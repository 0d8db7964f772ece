"""From samples to figures, and from figures to tables; all arithmetic of the comparison is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.serving.measure import Alone, Contestant, Loaded
from benchmarks.serving.servers import Setup
from lccl.bench.report import new_table

Rounds = Sequence[tuple[Loaded, Loaded]]


def highest(rounds: Rounds) -> list[float]:
    """Saturated throughput of each round: the higher of the closed and the open load's answers a second."""
    return [max(closed.answers_per_s, opened.answers_per_s) for closed, opened in rounds]


def best(saturated: Mapping[str, Rounds], names: Sequence[str]) -> str | None:
    """The name with the highest median; None of none."""
    return max(names, key=lambda name: median(highest(saturated[name])), default=None)


def ratio(saturated: Mapping[str, Rounds], name: str, against: str) -> float:
    """The median over the rounds of one's throughput over the other's in the same round."""
    pairs = zip(highest(saturated[name]), highest(saturated[against]), strict=True)
    return median(own / other for own, other in pairs)


def figures(
    contestants: Sequence[Contestant],
    setups: Mapping[str, Setup],
    alone: Mapping[str, Alone],
    saturated: Mapping[str, Rounds],
    tails: Mapping[str, Sequence[Loaded]],
) -> dict[str, Any]:
    """Everything measured by contestant, and the ratios that the comparison is for."""
    kinds = {one.name: one.kind for one in contestants}
    own = [name for name, kind in kinds.items() if kind == "own"]
    ratios: dict[str, Any] = {}
    for kind in ("dense", "whole", "native"):
        rival = best(saturated, [name for name, known in kinds.items() if known == kind])
        if rival is not None:
            ratios[kind] = {"best_peer": rival, **{name: ratio(saturated, name, rival) for name in own}}
    rows = [
        _row(one, setups.get(one.name), alone.get(one.name), saturated[one.name], tails.get(one.name, ()))
        for one in contestants
    ]
    mixed, even = own[-1], own[-2]
    return {"contestants": rows, "ratios": ratios, "mixed_over_even": ratio(saturated, mixed, even)}


def _row(
    contestant: Contestant, setup: Setup | None, alone: Alone | None, rounds: Rounds, tails: Sequence[Loaded]
) -> dict[str, Any]:
    """One contestant's figures: medians over the rounds, and the rounds themselves."""
    reached = highest(rounds)
    skipped = [closed.skip_ratio for closed, _ in rounds if closed.skip_ratio is not None]
    waits = [tail.p99_ms for tail in tails if tail.p99_ms is not None]
    return {
        "name": contestant.name,
        "kind": contestant.kind,
        "precision": contestant.precision,
        "accuracy": contestant.accuracy,
        "setup": None if setup is None else asdict(setup),
        "saturated_per_s": median(reached),
        "least_per_s": min(reached),
        "most_per_s": max(reached),
        "cpu_ms_per_answer": median(closed.cpu_ms_per_answer for closed, _ in rounds),
        "generator_share": median(closed.generator_share for closed, _ in rounds),
        "others_cores": max(load.others_cores for load in (*chain(*rounds), *tails)),
        "skip_ratio": median(skipped) if skipped else None,
        "alone_ms": None if alone is None else alone.total_ms,
        "outside_engine_ms": None if alone is None else alone.outside_ms,
        "served_outside_engine_ms": None if alone is None else alone.served_ms,
        "tail_p99_ms": median(waits) if waits else None,
        "tail_answered": median(tail.answered for tail in tails) if tails else None,
        "rounds": [{"closed": asdict(closed), "open": asdict(opened)} for closed, opened in rounds],
        "tails": [asdict(tail) for tail in tails],
    }


def tables(made: Mapping[str, Any]) -> list[Table]:
    """The figures as tables for people."""
    return [_contestants(made), _ratios(made), _settings(made)]


def _contestants(made: Mapping[str, Any]) -> Table:
    rate = made["tail_rate_per_s"]
    return new_table(
        f"{made['network']}, {made['source']}, {made['bytes_per_image'] / 1000:.1f} kB an image, "
        f"decoded by {made['decoder']}",
        "contestant", "precision", "accuracy %", "answers a second", "least – most", "server's CPU ms",
        "generator's core", "alone ms", "outside the engine", f"p99 ms at {rate:.0f}/s" if rate else "p99 ms",
        "others' cores",
        rows=((row["name"], row["precision"], _or_dash(row["accuracy"] and 100 * row["accuracy"]),
            f"{row['saturated_per_s']:.1f}", f"{row['least_per_s']:.0f} – {row['most_per_s']:.0f}",
            f"{row['cpu_ms_per_answer']:.2f}", f"{row['generator_share']:.0%}", _or_dash(row["alone_ms"]),
            _or_dash(row["outside_engine_ms"]), _or_dash(row["tail_p99_ms"]),
            f"{row['others_cores']:.2f}") for row in made["contestants"]),
    )  # fmt: skip


def _ratios(made: Mapping[str, Any]) -> Table:
    rows = [
        (name, ratios["best_peer"], f"{value:.2f}")
        for ratios in made["ratios"].values()
        for name, value in ratios.items()
        if name != "best_peer"
    ]
    mixed = ("mixed targets", "one target for all", f"{made['mixed_over_even']:.2f}")
    return new_table("Saturated throughput, ratios", "", "over", "", rows=[*rows, mixed])


def _settings(made: Mapping[str, Any]) -> Table:
    setups = ((row["name"], row["setup"]) for row in made["contestants"])
    rows = ((name, str(Setup(**setup))) for name, setup in setups if setup is not None)
    return new_table("Settings of the peers", "", "", rows=rows)


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
