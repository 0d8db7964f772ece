"""The comparison as Markdown tables, and what was aimed at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.photographs.families import GATED, OWN, RIVALS, SKIPPING, WITH_EXITS
from benchmarks.photographs.timing import TIME_AT_MOST
from benchmarks.training_tables import paired, percent, table

Figures = dict[str, Any]
WITHIN = 0.02
OWN_NAMES = {"gated": SKIPPING, "exits": WITH_EXITS}


def tables(
    figures: Figures, times: Figures | None, reached: Figures | None, tuned: Figures | None
) -> dict[str, Iterator[str]]:
    """Tables by the name of their place in the page; None where a result is missing."""
    found = {
        "photographs-goals": goals_table(figures, times, reached, tuned),
        "photographs-lost": lost_table(figures),
        "photographs-rivals": rivals_table(figures),
        "photographs-layers": layers_table(figures),
    }
    return found if times is None else found | {"photographs-times": times_table(times)}


def lost_table(figures: Figures) -> Iterator[str]:
    """Points lost against the plain twin, by gates alone and with exits."""
    yield from table("network", "skip ratio", "MACs / plain twin", "accuracy %", "lost, points (95 %)", "aim", "")
    for row in figures["lost"]:
        head = f"| {OWN_NAMES[row['network']]} | {row['asked']} |"
        if "out_of_reach" in row:
            yield f"{head} – | – | beyond the last point, {row['out_of_reach']:.2f} | | not reached |"
            continue
        yield (
            f"{head} {row['work']:.2f} | {100 * row['accuracy']:.1f} | {paired(row['lost'], row['interval'])} | "
            f"≤ {row['goal']:g} | {_verdict_of_loss(row)} |"
        )


def rivals_table(figures: Figures) -> Iterator[str]:
    """At each cost the accuracy of what skips, and how far it is ahead of each rival."""
    rows = {(row["ours"], row["rival"], row["work"]): row for row in figures["rivals"]}
    families = [name for name in OWN if any(ours == name for ours, _, _ in rows)]
    yield from table(
        "MACs / plain twin", "", "accuracy %", *(f"{rival} %: ahead, points (95 %, five looks)" for rival in RIVALS)
    )
    for cost in sorted({work for _, _, work in rows}):
        for ours in families:
            found = [rows.get((ours, rival, cost)) for rival in RIVALS]
            own = next(percent(row["accuracy"]) for row in found if row is not None)
            yield f"| {cost:g} | {ours} | {own} | {' | '.join(map(_against, found))} |"


def times_table(times: Figures) -> Iterator[str]:
    """Measured time of everything compared, as a share of the plain twin's."""
    yield from table(
        "",
        "network",
        "accuracy %",
        *(f"batch {batch}: ms, share of the twin's (quartiles)" for batch in _batches(times)),
    )
    by_place: dict[tuple[str, str], dict[int, Figures]] = {}
    for row in times["rows"]:
        name = f"{row['network']} at {row['size']} pixels, {row['point']}"
        by_place.setdefault((row["family"], name), {})[row["batch"]] = row
    for (family, name), rows in by_place.items():
        accuracy = percent(next(iter(rows.values()))["accuracy"])
        yield f"| {family} | {name} | {accuracy} | {' | '.join(_time(rows[batch]) for batch in _batches(times))} |"


def layers_table(figures: Figures) -> Iterator[str]:
    """Layer by layer at a skip ratio of 0.5: whether images and positions decide."""
    return table(
        "layer", "positions a side", "skipped", "deviation between images", "images that keep 0.1 – 0.9 of it",
        rows=(
            f"| {row['layer']} | {row['side']} | {row['skip_ratio']:.2f} | {row['deviation']:.2f} | "
            f"{100 * row['images_within']:.0f} % |"
            for row in figures["layers"]
        ),
    )  # fmt: skip


def goals_table(
    figures: Figures, times: Figures | None, reached: Figures | None, tuned: Figures | None
) -> Iterator[str]:
    """What was aimed at, what came out, and whether that is shown: its whole interval, or the estimate alone."""
    yield from table("aim", "measured", "")
    twin = figures["twin"]
    low, high = (100 * bound for bound in twin["interval"])
    verdict = _verdict(twin["accuracy"] >= twin["goal"], twin["interval"][0] >= twin["goal"])
    yield (
        f"| plain twin, {twin['size']} pixels: ≥ {100 * twin['goal']:.1f} % | {100 * twin['accuracy']:.1f} "
        f"({low:.1f} – {high:.1f}) | {verdict} |"
    )
    for row in figures["lost"]:
        if row["network"] == _served(figures) and "out_of_reach" in row:
            yield f"| lost at {row['asked']} | beyond the last point, {row['out_of_reach']:.2f} | not reached |"
        elif row["network"] == _served(figures):
            yield (
                f"| lost at {row['asked']}: ≤ {row['goal']:g} points | {paired(row['lost'], row['interval'])} | "
                f"{_verdict_of_loss(row)} |"
            )
    for rival in RIVALS:
        yield _against_goal(figures, OWN_NAMES[_served(figures)], rival)
    yield from _layer_goals(figures)
    yield from _time_goals(times)
    yield _reached_goal(reached)
    yield _tuned_goal(tuned)


def _served(figures: Figures) -> str:
    """The network that is served: the one with exits where there is one."""
    return "exits" if any(row["network"] == "exits" for row in figures["lost"]) else GATED


def _against_goal(figures: Figures, ours: str, rival: str) -> str:
    aim = f"| {ours} against {rival}: nowhere below, above by ≥ 0.7 points at two of five costs |"
    rows = [row for row in figures["rivals"] if (row["ours"], row["rival"]) == (ours, rival) and row["interval"]]
    if not rows:
        return f"{aim} – | not run |"
    below = sum(row["interval"][1] < 0 for row in rows)
    above = sum(row["ahead"] >= row["goal"] for row in rows)
    shown = sum(row["interval"][0] >= row["goal"] for row in rows)
    figure = f"{len(rows)} costs compared: below at {below}, above by 0.7 at {above}, shown at {shown}"
    return f"{aim} {figure} | {_verdict(not below and above >= 2, not below and shown >= 2)} |"


def _layer_goals(figures: Figures) -> Iterator[str]:
    layers = figures["layers"]
    for name, what, share, words in (
        ("varies", "layers whose skip ratio varies between images by more than 0.05", 2 / 3, "two thirds"),
        ("decides_by_position", "layers that keep 0.1 – 0.9 for at least half of the images", 1 / 2, "half"),
    ):
        count = sum(row[name] for row in layers)
        verdict = _verdict(count >= share * len(layers)) if layers else "not run"
        yield f"| {what}, at 0.5: ≥ {words} | {f'{count} of {len(layers)}' if layers else '–'} | {verdict} |"


def _time_goals(times: Figures | None) -> Iterator[str]:
    rows = [] if times is None else [row for row in times["rows"] if row["network"] == GATED and row["point"] == "0.5"]
    for batch in (1, 8):
        row = next((row for row in rows if row["batch"] == batch), None)
        figure = "–" if row is None else f"{row['share']:.2f} ({row['quartiles'][0]:.2f} – {row['quartiles'][1]:.2f})"
        verdict = "not run" if row is None else _verdict(row["share"] <= TIME_AT_MOST)
        yield f"| time at 0.5, batch {batch}: ≤ {TIME_AT_MOST:g} of the twin's | {figure} | {verdict} |"


def _reached_goal(reached: Figures | None) -> str:
    aim = f"| stated against reached over HTTP: skip ratio within {WITHIN:g}, accuracy not significantly different |"
    if reached is None:
        return f"{aim} – | not run |"
    off = max(abs(row["skip_reached"] - row["skip_stated"]) for row in reached["rows"])
    z = max(abs(row["z"]) for row in reached["rows"])
    return f"{aim} at most {off:.3f} off; z at most {z:.2f} | {_verdict(off <= WITHIN and z <= 1.96)} |"


def _tuned_goal(tuned: Figures | None) -> str:
    aim = "| fine-tuned on other photographs, against training from nothing in the same time: ≥ 15 points better |"
    if tuned is None:
        return f"{aim} – | not run |"
    minutes = f"{tuned['seconds_tuned'] / 60:.1f} and {tuned['seconds_fresh'] / 60:.1f} minutes"
    verdict = _verdict(tuned["ahead"] >= tuned["goal"], tuned["interval"][0] >= tuned["goal"])
    return (
        f"{aim} {100 * tuned['tuned']:.1f} % against {100 * tuned['fresh']:.1f} %: "
        f"{paired(tuned['ahead'], tuned['interval'])}; {minutes} | {verdict} |"
    )


def _verdict(reached: bool, shown: bool = False) -> str:
    return "shown" if shown else "reached" if reached else "not reached"


def _verdict_of_loss(row: Figures) -> str:
    return _verdict(row["lost"] <= row["goal"], row["interval"][1] <= row["goal"])


def _against(row: Figures | None) -> str:
    if row is None:
        return "not run"
    if row["ahead"] is None:
        return "–"
    return f"{percent(row['rival_accuracy'])}: {paired(row['ahead'], row['interval'])}"


def _batches(times: Figures) -> list[int]:
    return sorted({row["batch"] for row in times["rows"]})


def _time(row: Figures) -> str:
    low, high = row["quartiles"]
    return f"{row['ms']:.1f}, {row['share']:.2f} ({low:.2f} – {high:.2f})"
