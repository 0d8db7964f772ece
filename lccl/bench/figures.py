"""From samples to figures, as result files hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lccl.bench.layers import Layers, Measured, realised
from lccl.bench.names import OWN, OWN_DENSE
from lccl.bench.turns import Contestant, Samples
from lccl.bench.workload import Workload
from lccl.plan.geometry import NetworkShape, shape_of


def figures(workload: Workload, precision: str, measured: Measured) -> dict[str, Any]:
    """Everything that a result file holds beside provenance."""
    samples, present = measured.samples, [each for each in measured.contestants if each.absent is None]
    threads = next(each.threads for each in present if each.kind == "own")
    baselines = [each.name for each in present if each.kind == "baseline"]
    best = min(baselines, key=samples.median, default=None)
    dense = min([*baselines, OWN_DENSE], key=samples.median)
    shape = shape_of(workload.plan)
    result: dict[str, Any] = {
        "model": workload.name,
        "digest": workload.digest,
        "architecture": workload.architecture.to_json(),
        "source": workload.images.source,
        "images": len(workload.images.images),
        "batch": workload.batch,
        "threads": threads,
        "precision": precision,
        "rounds": len(samples.seconds[OWN_DENSE]),
        "runs_per_turn": samples.runs_per_turn,
        "dense_macs": shape.dense,
        "gate_macs": shape.gates,
        "best_baseline": best,
        "best_dense": dense,
        "contestants": [contestant_row(each, samples, best) for each in measured.contestants],
        "settings": [
            _setting(setting.name, setting.wanted, shape, measured, best, dense) for setting in workload.settings
        ],
        "scaling": _scaling(present, samples, threads),
    }
    if measured.profiles:
        layers = Layers.of(workload, measured)
        result |= {"layers": layers.rows(), "last_stage_apart": layers.last_stage_apart()}
    return result


def contestant_row(contestant: Contestant, samples: Samples, best: str | None) -> dict[str, Any]:
    """A contestant's times, and its speed against the best baseline."""
    names = ("name", "kind", "threads", "absent")
    row = {name: getattr(contestant, name) for name in names}
    if contestant.absent is not None:
        return row
    speed = None if best is None else 1 / samples.ratio(contestant.name, best)
    return row | samples.figures(contestant.name) | {"speed_against_best_baseline": speed}


def _setting(
    name: str, wanted: float | None, shape: NetworkShape, measured: Measured, best: str | None, dense: str
) -> dict[str, Any]:
    samples, counts, contestant = measured.samples, measured.counts[name], f"{OWN} {name}"
    gated = float(shape.gated(counts.kept, counts.exit_index).mean())
    time_share, macs_share = samples.ratio(contestant, OWN_DENSE), gated / shape.dense
    return {
        "name": name,
        "skip_wanted": wanted,
        "skip_reached": float(shape.skip_ratio(counts.kept).mean()),
        "skip_spread": float(shape.skip_ratio(counts.kept).std()),
        "left_early": float((counts.exit_index < len(shape.exits)).mean()) if shape.exits else None,
        "gated_macs": gated,
        "executed_macs": float(counts.executed.mean()),
        "macs_share": macs_share,
        "time_share": time_share,
        "saving_in_theory": 1 - macs_share,
        "saving": 1 - time_share,
        "saving_against_best_baseline": None if best is None else 1 - samples.ratio(contestant, best),
        "realised": realised(time_share, macs_share),
        "speed_up_against_own_dense": 1 / time_share,
        "speed_up_against_best_dense": 1 / samples.ratio(contestant, dense),
        "speed_up_against_best_baseline": None if best is None else 1 / samples.ratio(contestant, best),
    }


def _scaling(present: Sequence[Contestant], samples: Samples, main: int) -> list[dict[str, Any]]:
    """How many times as fast each own contestant is with more threads, paired round by round."""
    rows = []
    for contestant in present:
        if contestant.kind == "own" and contestant.threads != main:
            name = contestant.name.rsplit(",", 1)[0]
            ratio = samples.ratio(contestant.name, name)
            fewer, more = sorted((contestant.threads, main))
            speed_up = ratio if contestant.threads < main else 1 / ratio
            rows.append({"name": name, "from": fewer, "to": more, "speed_up": speed_up})
    return rows
