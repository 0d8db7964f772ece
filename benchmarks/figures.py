"""Makes what the documentation shows: the example image, the shipped model's curve, and the tables.

python -m benchmarks.figures
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from benchmarks import training_tables

HOME = Path(__file__).parents[1]
DOCS = HOME / "docs"
MODEL = HOME / "models" / "resnet20-cifar10"
DENSE_MACS = 40_551_040
REACHED = Path(__file__).parent / "results" / "stated_and_reached.json"
CPU = Path(__file__).parent / "results" / "cpu"
SERVING = Path(__file__).parent / "results" / "serving"
OVERLOAD = Path(__file__).parent / "results" / "overload-resnet20.json"
TRADE_OFF = Path(__file__).parent / "results" / "trade_off.json"
FAULTS = Path(__file__).parent / "results" / "faults.json"
TABLES = HOME / "README.md", DOCS / "cpu-engine.md", DOCS / "serving.md", DOCS / "training.md", DOCS / "sidenet.md"


def main() -> None:
    """Write ``docs/example.png``, ``docs/curve.svg``, ``docs/overload.svg`` and the tables of ``TABLES``."""
    draw_example(DOCS / "example.png")
    draw_curve(DOCS / "curve.svg")
    if OVERLOAD.is_file():
        draw_overload(DOCS / "overload.svg", json.loads(OVERLOAD.read_text(encoding="utf-8")))
    for file in TABLES:
        file.write_text(fill_tables(file.read_text(encoding="utf-8")), encoding="utf-8")


def fill_tables(page: str) -> str:
    """A page with its tables written afresh from the bundle and the result files."""
    bundle = json.loads((MODEL / "bundle.json").read_text(encoding="utf-8"))
    tables = {"table": points_table(bundle)}
    if REACHED.is_file():
        tables["reached"] = reached_table(json.loads(REACHED.read_text(encoding="utf-8")))
    measured = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(CPU.glob("*.json"))]
    if measured:
        tables["cpu"] = cpu_table(measured)
        tables["goals"] = goals_table()
    served = [json.loads((SERVING / f"{name}.json").read_text(encoding="utf-8")) for name in _served()]
    if served:
        tables["serving"] = serving_table(served)
    if TRADE_OFF.is_file():
        tables["gain"] = gain_table(json.loads(TRADE_OFF.read_text(encoding="utf-8")))
    if FAULTS.is_file():
        tables["faults"] = faults_table(json.loads(FAULTS.read_text(encoding="utf-8")))
    for name, rows in (tables | training_tables.tables()).items():
        pattern = rf"(<!-- {name}: [^>]*-->\n).*?(<!-- end of {name} -->)"
        content = "\n".join(rows)
        page = re.sub(pattern, lambda found, text=content: f"{found[1]}\n{text}\n\n{found[2]}", page, flags=re.S)
    return page


def points_table(bundle: dict[str, Any]) -> Iterator[str]:
    """Operating points as Markdown rows."""
    yield "| point | skip ratio | MACs, gated / plain twin | accuracy % (95 %) | lost against exact, points | at most |"
    yield "|---|---|---|---|---|---|"
    for point in bundle["operating_points"]["points"]:
        interval = point["accuracy_interval"]
        yield (
            f"| {point['name']} | {point['skip_ratio']:.3f} | {point['gated_macs'] / DENSE_MACS:.3f} | "
            f"{100 * point['accuracy']:.1f} ({100 * interval['low']:.1f} – {100 * interval['high']:.1f}) | "
            f"{point['drop']:.2f} | {point['drop_bound']:.2f} |"
        )
    twin = bundle["training"].get("plain_twin")
    if twin:
        low, high = twin["accuracy_interval"]
        yield f"| plain twin | – | 1 | {100 * twin['accuracy']:.1f} ({100 * low:.1f} – {100 * high:.1f}) | – | – |"


def gain_table(result: dict[str, Any]) -> Iterator[str]:
    """What is gained at which accuracy, as Markdown rows."""
    columns = "you ask for", "point", "accuracy %", "lost, points", "plain twin's MACs left", "speed, times `exact`'s"
    yield f"| {' | '.join(columns)} |"
    yield "|---|---|---|---|---|---|"
    for row in result["rows"]:
        asked = "nothing" if row["asked"] == "exact" else f"`max_accuracy_drop={row['asked']}`"
        yield (
            f"| {asked} | {row['point']} | {100 * row['accuracy']:.1f} | {max(row['drop'], 0):.1f} | "
            f"{100 * row['gated_macs'] / result['dense_macs']:.0f} % | {row['speed_up']:.2f} × |"
        )


def reached_table(result: dict[str, Any]) -> Iterator[str]:
    """What was asked, stated and reached over HTTP as Markdown rows."""
    yield "| asked | skip ratio reached | accuracy stated % | accuracy reached % (95 %) | z |"
    yield "|---|---|---|---|---|"
    for row in result["rows"]:
        low, high = row["accuracy_interval"]
        asked = f"sparsity={row['asked']:g}" if row["asked"] else "exact"
        yield (
            f"| {asked} | {row['skip_reached']:.3f} | {100 * row['accuracy_stated']:.1f} | "
            f"{100 * row['accuracy_reached']:.1f} ({100 * low:.1f} – {100 * high:.1f}) | {row['z']:+.2f} |"
        )


def cpu_table(results: list[dict[str, Any]]) -> Iterator[str]:
    """What skipping gains on a CPU as Markdown rows: a row per result and skip ratio."""
    yield "| network | batch, threads | best dense, ms | skip ratio | ms | speed-up (MACs allow) | realised |"
    yield "|---|---|---|---|---|---|---|"
    for result in results:
        medians = {row["name"]: row["median_ms"] for row in result["contestants"] if "median_ms" in row}
        if result["best_baseline"] is None:
            continue  # a comparison of thread counts
        name = Path(result["model"]).name
        for setting in result["settings"]:
            if setting["skip_wanted"] is None:
                continue
            yield (
                f"| {name}, {result['precision']} | {result['batch']}, {result['threads']} | "
                f"{medians[result['best_dense']]:.2f} ({result['best_dense']}) | {setting['skip_reached']:.2f} | "
                f"{medians['LCCL ' + setting['name']]:.2f} | {setting['speed_up_against_best_dense']:.2f} "
                f"({1 / setting['macs_share']:.2f}) | {setting['realised']:.2f} |"
            )


def goals_table() -> Iterator[str]:
    """What the measurements on a CPU aim at and reach, as Markdown rows."""
    from benchmarks.cpu import reached

    yield "| measurement | figure | aim | reached |"
    yield "|---|---|---|---|"
    for goal, figure in reached():
        yield f"| {goal.measurement} | {goal.what} | {goal.least:g} | {figure:.3f} |"


def _served() -> list[str]:
    return [name for name in ("resnet20", "resnet18") if (SERVING / f"{name}.json").is_file()]


def serving_table(results: list[dict[str, Any]]) -> Iterator[str]:
    """How this service and its peers compare, the best peer first, as Markdown rows."""
    yield "| network | server | answers a second | against the best peer | p99 ms at 70 % | outside the engine, ms |"
    yield "|---|---|---|---|---|---|"
    for result in results:
        rows = sorted(result["contestants"], key=lambda row: (row["kind"] == "own", -row["saturated_per_s"]))
        for row in rows:
            if row["kind"] == "native":
                continue
            times = result["ratios"]["dense"].get(row["name"])
            yield (
                f"| {result['network']} | {row['name']} | {row['saturated_per_s']:.0f} | "
                f"{'–' if times is None else f'{times:.2f} ×'} | {_milliseconds(row['tail_p99_ms'])} | "
                f"{_outside(row)} |"
            )


def _outside(row: dict[str, Any]) -> str:
    """One request's milliseconds outside the engine, its client's included; in brackets the server's own."""
    served = row.get("served_outside_engine_ms")
    return _milliseconds(row["outside_engine_ms"]) + ("" if served is None else f" ({served:.1f})")


def faults_table(result: dict[str, Any]) -> Iterator[str]:
    """What was tried, and how many requests were sent and answered, as Markdown rows."""
    yield "| tried | seconds | sent | answered | connection failed | left by the client | wrong | lost |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in (row for row in result.values() if isinstance(row, dict) and "abandoned" in row):
        answered = ", ".join(f"{count:,} × {status}" for status, count in row["answered"].items())
        yield (
            f"| {row['what']} | {row['seconds']:.0f} | {row['sent']:,} | {answered} | {row['connections_failed']:,} | "
            f"{row['abandoned']:,} | {row['wrong']} | {row['lost']} |"
        )


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def draw_example(file: Path) -> None:
    """A ship on the sea, 256 × 256."""
    image = Image.new("RGB", (256, 256), (176, 205, 228))
    draw = ImageDraw.Draw(image)
    for row in range(130):
        draw.line([(0, row), (256, row)], fill=(150 + row // 2, 190 + row // 4, 228))
    for row in range(130, 256):
        draw.line([(0, row), (256, row)], fill=(30, 95 - (row - 130) // 4, 140 - (row - 130) // 4))
    draw.polygon([(18, 132), (238, 132), (206, 178), (52, 178)], fill=(58, 62, 78))
    draw.polygon([(18, 132), (238, 132), (234, 140), (24, 140)], fill=(168, 44, 38))
    draw.rectangle((84, 96, 190, 132), fill=(238, 238, 234))
    draw.rectangle((104, 68, 162, 96), fill=(226, 226, 220))
    draw.rectangle((120, 34, 142, 68), fill=(190, 60, 44))
    draw.rectangle((120, 34, 142, 44), fill=(40, 40, 46))
    for left in range(92, 184, 16):
        draw.ellipse((left, 108, left + 8, 116), fill=(60, 90, 120))
    for row, left in ((192, 20), (206, 120), (222, 60), (238, 160)):
        draw.arc((left, row, left + 56, row + 12), 200, 340, fill=(150, 185, 210), width=2)
    image.save(file, optimize=True)


def draw_curve(file: Path) -> None:
    """Accuracy over work: the model's table, what was reached over HTTP on test images, and the plain twin."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "lccl"
    import matplotlib.pyplot as plt

    bundle = json.loads((MODEL / "bundle.json").read_text(encoding="utf-8"))
    points = bundle["operating_points"]["points"]
    ratios = [point["skip_ratio"] for point in points]
    accuracies = [100 * point["accuracy"] for point in points]
    below = [100 * (point["accuracy"] - point["accuracy_interval"]["low"]) for point in points]
    above = [100 * (point["accuracy_interval"]["high"] - point["accuracy"]) for point in points]
    figure, axes = plt.subplots(figsize=(7, 3.8))
    axes.errorbar(
        ratios, accuracies, [below, above], marker="o", markersize=4, capsize=2, color="#1f5fa8",
        label="operating points, held-out images (95 %)",
    )  # fmt: skip
    twin = bundle["training"].get("plain_twin")
    if twin:
        axes.axhline(100 * twin["accuracy"], color="#777777", linestyle="--", linewidth=1, label="plain twin")
    if REACHED.is_file():
        rows = json.loads(REACHED.read_text(encoding="utf-8"))["rows"]
        axes.scatter(
            [row["skip_reached"] for row in rows], [100 * row["accuracy_reached"] for row in rows],
            marker="x", color="#c4501b", zorder=3, label="reached over HTTP, test images",
        )  # fmt: skip
    axes.set_xlabel("skip ratio: share of gated convolutions' cells not needed")
    axes.set_ylabel("accuracy %")
    axes.set_title("resnet20-cifar10: one set of weights, every trade-off", loc="left", fontsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def draw_overload(file: Path, result: dict[str, Any]) -> None:
    """Goodput and p99 over offered load, with and without brown-out."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "lccl"
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4))
    for name, colour in (("with", "#1f5fa8"), ("without", "#c4501b")):
        rows = [row for row in result["rows"] if row["brownout"] == name]
        loads = [row["load"] for row in rows]
        left.plot(loads, [row["goodput_per_s"] for row in rows], marker="o", color=colour, label=f"{name} brown-out")
        right.plot(loads, [row["p99_ms"] for row in rows], marker="o", color=colour, label=f"{name} brown-out")
    left.set_ylabel(f"answers within {result['deadline_ms']:.0f} ms, a second")
    right.set_ylabel("p99 of answers, ms")
    right.axhline(result["deadline_ms"], color="#777777", linestyle="--", linewidth=1, label="deadline")
    for axes in (left, right):
        axes.set_xlabel("offered load, times capacity")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
