"""Makes what the documentation shows: the shipped models' curves, and the tables.

python -m benchmarks.figures
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import cpu, equal_accuracy, goals, photographs, results, training_tables
from benchmarks.paper.overview import places
from benchmarks.paper.rows import RESULTS, read_all
from benchmarks.photographs import tables as photograph_tables
from benchmarks.pictures import Figures, draw_curve, draw_methods, draw_overload, draw_photographs
from benchmarks.training_tables import table
from lccl.networks import Architecture
from lccl.networks.lowering import network_shape

DOCS = results.HOME / "docs"
SMALL, LARGE = (results.HOME / "models" / name for name in ("resnet20-cifar10", "resnet18-imagenette"))
PAGES = (
    results.HOME / "README.md",
    *(DOCS / f"{name}.md" for name in ("cpu-engine", "deploy", "int8", "serving", "training", "sidenet")),
)

RAY = {"proxy": "Ray's proxy", "haproxy": "HAProxy"}


def main() -> None:
    """Write the pictures in ``docs`` and the tables of ``PAGES``."""
    for model, name, reached in (
        (SMALL, "curve", "stated_and_reached"), (LARGE, "photographs-curve", photographs.REACHED)
    ):  # fmt: skip
        if model.is_dir():
            bundle = _bundle(model)
            twin = bundle["training"].get("plain_twin")
            draw_curve(DOCS / f"{name}.svg", model.name, _points(bundle), twin, results.read(reached))
    overload = results.read("overload-resnet20")
    if overload is not None:
        draw_overload(DOCS / "overload.svg", overload)
    compared = results.read(photographs.RESULT)
    if compared is not None:
        draw_photographs(DOCS / "photographs.svg", compared, results.read(photographs.TIMES))
    draw_methods(DOCS / "paper.svg", places(list(read_all(RESULTS))))
    for file in PAGES:
        file.write_text(fill_tables(file.read_text(encoding="utf-8")), encoding="utf-8")


def fill_tables(page: str) -> str:
    """A page with its tables written again from the bundle and the result files."""
    models = {"table": SMALL, "photographs-table": LARGE}
    shipped: dict[str, Iterable[str]] = {
        name: points_table(_bundle(model)) for name, model in models.items() if model.is_dir()
    }
    tables = shipped | training_tables.tables()
    for name, result, make in (
        ("reached", "stated_and_reached", reached_table), ("gain", "trade_off", gain_table),
        ("photographs-reached", photographs.REACHED, reached_table),
        ("photographs-gain", "trade_off-photographs", gain_table),
        ("equal-accuracy", equal_accuracy.RESULT, equal_accuracy_table),
        ("faults", "faults", faults_table),
        ("request-cost", "request_cost", request_cost_table),
        ("processes", "processes", processes_table),
        ("ray-hop", "ray", ray_hop_table), ("ray-replicas", "ray", ray_replicas_table),
    ):  # fmt: skip
        figures = results.read(result)
        if figures is not None:
            tables[name] = make(figures)
    compared = results.read(photographs.RESULT)
    if compared is not None:
        others = (photographs.TIMES, photographs.REACHED, "fine_tuning")
        tables |= photograph_tables.tables(compared, *map(results.read, others))
    measured = cpu.measured()
    if measured:
        tables |= {"cpu": cpu_table(measured), "goals": goals_table(measured)}
    read = (results.read(f"serving/{name}") for name in ("resnet20", "resnet18", "resnet18-12-megapixels"))
    served = [figures for figures in read if figures is not None]
    if served:
        tables["serving"] = serving_table(served)
    for name, rows in tables.items():
        pattern = rf"(<!-- {name}: [^>]*-->\n).*?(<!-- end of {name} -->)"
        content = "\n".join(rows)
        page = re.sub(pattern, lambda match, text=content: f"{match[1]}\n{text}\n\n{match[2]}", page, flags=re.S)
    return page


def _bundle(model: Path) -> Figures:
    description: Figures = json.loads((model / "bundle.json").read_text(encoding="utf-8"))
    return description


def _points(bundle: Figures) -> list[Figures]:
    """Those that a CPU serves: int8's where the bundle has them."""
    points: list[Figures] = bundle.get("tables", {}).get("int8", bundle["operating_points"])["points"]
    return points


def points_table(bundle: Figures) -> Iterator[str]:
    """Operating points as Markdown rows, of int8 where it has them: in that a CPU serves it."""
    dense = network_shape(Architecture.from_json(bundle["architecture"]), bundle["preprocessing"]["size"]).dense
    yield from table(
        "point", "skip ratio", "MACs, gated / plain twin", "accuracy % (95 %)", "lost against exact, points", "at most"
    )
    for point in _points(bundle):
        yield (
            f"| {point['name']} | {point['skip_ratio']:.3f} | {point['gated_macs'] / dense:.3f} | "
            f"{_with_interval(point['accuracy'], **point['accuracy_interval'])} | "
            f"{point['drop']:.2f} | {point['drop_bound']:.2f} |"
        )
    twin = bundle["training"].get("plain_twin")
    if twin:
        yield f"| plain twin | – | 1 | {_with_interval(twin['accuracy'], *twin['accuracy_interval'])} | – | – |"


SETS = {
    "amx": "AMX", "avx512_vnni": "AVX-512 VNNI", "avx512_vnni_narrow": "AVX-512 VNNI", "avx_vnni": "AVX-VNNI",
    "avx512": "AVX-512", "avx2": "AVX2",
}  # fmt: skip


def gain_table(result: Figures) -> Iterator[str]:
    """What is gained at which accuracy, as Markdown rows."""
    yield from table(
        "request", "precision", "point", "accuracy %", "loss, points", "MACs, % of the plain twin's",
        *(f"speed on {SETS.get(name, name)}, × `exact`" for name in result["instruction_sets"]),
    )  # fmt: skip
    for row in result["rows"]:
        asked = "nothing" if row["asked"].startswith("exact") else f"`max_accuracy_drop={row['asked']}`"
        speeds = " | ".join(f"{speed_up:.2f} ×" for speed_up in row["speed_up"])
        yield (
            f"| {asked} | {row['precision']} | {row['point']} | {100 * row['accuracy']:.1f} | "
            f"{max(row['drop'], 0):.1f} | {100 * row['gated_macs'] / result['dense_macs']:.0f} % | {speeds} |"
        )


def reached_table(result: Figures) -> Iterator[str]:
    """What was requested, stated and reached over HTTP as Markdown rows."""
    return table(
        "request", "skip ratio reached", "accuracy stated %", "accuracy reached % (95 %)", "z",
        rows=(
            f"| {'sparsity=' + format(row['asked'], 'g') if row['asked'] else 'exact'} | {row['skip_reached']:.3f} | "
            f"{100 * row['accuracy_stated']:.1f} | "
            f"{_with_interval(row['accuracy_reached'], *row['accuracy_interval'])} | {row['z']:+.2f} |"
            for row in result["rows"]
        ),
    )  # fmt: skip


def _with_interval(accuracy: float, low: float, high: float) -> str:
    return f"{100 * accuracy:.1f} ({100 * low:.1f} – {100 * high:.1f})"


def cpu_table(measured: dict[str, Figures]) -> Iterator[str]:
    """What skipping gains on a CPU as Markdown rows: a row per result and skip ratio."""
    yield from table(
        "network", "batch, threads", "best dense, ms", "skip ratio", "ms", "speed-up (MACs allow)", "realised"
    )
    for measurement, result in sorted(measured.items()):
        medians = {row["name"]: row["median_ms"] for row in result["contestants"] if "median_ms" in row}
        if result["best_baseline"] is None:
            continue  # a comparison of thread counts
        name, amx = Path(result["model"]).name, " on AMX" if cpu.MEASUREMENTS[measurement].amx else ""
        for setting in result["settings"]:
            if setting["skip_wanted"] is None:
                continue
            yield (
                f"| {name}, {result['precision']}{amx} | {result['batch']}, {result['threads']} | "
                f"{medians[result['best_dense']]:.2f} ({result['best_dense']}) | {setting['skip_reached']:.2f} | "
                f"{medians['LCCL ' + setting['name']]:.2f} | {setting['speed_up_against_best_dense']:.2f} "
                f"({1 / setting['macs_share']:.2f}) | {setting['realised']:.2f} |"
            )


def goals_table(measured: dict[str, Figures]) -> Iterator[str]:
    """What the measurements on a CPU aim at and reach, as Markdown rows."""
    return table(
        "measurement", "figure", "aim", "reached",
        rows=(
            f"| {goal.measurement} | {goal.what} | {goal.least:g} | {goal.figure:.3f} |"
            for goal in goals.on_cpu(measured)
            if goal.figure is not None
        ),
    )  # fmt: skip


def equal_accuracy_table(result: Figures) -> Iterator[str]:
    """The network that skips beside the fastest peer on its twin, as Markdown rows."""
    accuracy = _percent(result["test_accuracies"]["point"])
    return table(
        "batch", "this engine, ms", "accuracy %", "fastest peer, twin", "ms", "accuracy %", "times as fast", "aim",
        rows=(
            f"| {row['batch']} | {row['own_ms']:.2f} ({result['point']}) | {accuracy} | {row['best_peer']} | "
            f"{row['best_peer_ms']:.2f} | {_percent(row['best_peer_accuracy'])} | {row['times_as_fast']:.2f} | "
            f"{result['goal']} |"
            for row in result["rows"]
        ),
    )  # fmt: skip


def serving_table(served: list[Figures]) -> Iterator[str]:
    """How this service and its peers compare, the best peer first, as Markdown rows."""
    yield from table(
        "network",
        "server",
        "precision",
        "accuracy %",
        "answers a second",
        "against the best peer",
        "p99 ms at 70 %",
        "outside the engine, ms",
    )
    for result in served:
        rows = sorted(result["contestants"], key=lambda row: (row["kind"] == "own", -row["saturated_per_s"]))
        for row in rows:
            if row["kind"] == "native":
                continue
            times, over_whole = (result["ratios"].get(kind, {}).get(row["name"]) for kind in ("dense", "whole"))
            more = "" if over_whole is None else f"; decoding whole {over_whole:.2f} ×"
            yield (
                f"| {result['network']} | {row['name']} | {row.get('precision', 'fp32')} | "
                f"{_percent(row.get('accuracy'))} | {row['saturated_per_s']:.0f} | "
                f"{'–' if times is None else f'{times:.2f} ×{more}'} | {_milliseconds(row['tail_p99_ms'])} | "
                f"{_outside(row)} |"
            )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}"


def _outside(row: dict[str, Any]) -> str:
    """One request's milliseconds outside the engine, its client's included; in brackets the server's own."""
    served = row.get("served_outside_engine_ms")
    return _milliseconds(row["outside_engine_ms"]) + ("" if served is None else f" ({served:.1f})")


def faults_table(result: Figures) -> Iterator[str]:
    """What was tried, and how many requests were sent and answered, as Markdown rows."""
    yield from table("tried", "seconds", "sent", "answered", "connection failed", "left by the client", "wrong", "lost")
    for row in (row for row in result.values() if isinstance(row, dict) and "abandoned" in row):
        answered = ", ".join(f"{count:,} × {status}" for status, count in row["answered"].items())
        yield (
            f"| {row['what']} | {row['seconds']:.0f} | {row['sent']:,} | {answered} | {row['connections_failed']:,} | "
            f"{row['abandoned']:,} | {row['wrong']} | {row['lost']} |"
        )


def processes_table(result: Figures) -> Iterator[str]:
    """What one process and several answer on the same cores."""
    yield from table(
        "network",
        "asked for",
        "processes",
        "answers a second, 64 under way",
        "p50, p99 at the same arrivals, ms",
        "one at a time, ms",
    )
    for row in result["rows"]:
        yield (
            f"| {row['network']} | {row['quality']} | {row['processes']} | {row['answers_per_s']:,.0f} | "
            f"{row['p50_ms']:.1f}, {row['p99_ms']:.1f} | {row['alone_ms']:.2f} |"
        )


def request_cost_table(result: Figures) -> Iterator[str]:
    """Processor time beside the engine, of the event loop and of device threads, by kind and connections."""
    yield from table("request", "connections", "beside the engine", "of it the event loop", "device threads", "aim")
    for row in result["rows"]:
        aim = result["goals_us"][row["kind"]] if row["connections"] > 1 else result["goal_alone_us"]
        yield (
            f"| {row['kind']} | {row['connections']} | {row['outside the engine']:.0f} | {row['loop']:.0f} | "
            f"{row['device threads']:.0f} | {aim} |"
        )


def ray_hop_table(result: Figures) -> Iterator[str]:
    """Requests through Ray beside those to ``lccl-serve`` in the same rounds."""
    yield from table(
        "asked", "connections", "requests a second", "median, ms", "p99, ms", "µs of processors a request",
        "of it the proxy", "of it the replica",
    )  # fmt: skip
    for row in result["hop"]:
        name = RAY.get(row["asked"], f"`{row['asked']}` beside {RAY[row['way']]}")
        parts = (f"{row[part]:,.0f}" if row["asked"] in RAY else "" for part in ("µs of proxy", "µs of replicas"))
        yield (
            f"| {name} | {row['connections']} | {row['requests/s']:,.0f} | {row['p50 ms']:.1f} | {row['p99 ms']:.1f} | "
            f"{row['µs of processors']:,.0f} | {' | '.join(parts)} |"
        )


def ray_replicas_table(result: Figures) -> Iterator[str]:
    """Images a second by the number of replicas, through either proxy."""
    kinds = [name for name in result["replicas"][0] if name.startswith("images/s")]
    yield from table("through", "replicas", *kinds)
    for row in result["replicas"]:
        figures = " | ".join(f"{row[kind]:,}" for kind in kinds)
        yield f"| {RAY[row['way']]} | {row['replicas']} | {figures} |"


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    main()
