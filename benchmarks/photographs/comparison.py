"""Figures of a comparison: against the plain twin, against each rival at equal cost, and layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.models import Position, accuracy_at, ahead_at, at, paired
from benchmarks.photographs.families import EXITS, GATED, OWN, RIVALS, all_families
from benchmarks.photographs.measuring import TWIN, Bench, Candidate
from lccl.calibration.intervals import corrected, wilson

Row = dict[str, Any]
TWIN_AT_LEAST = 0.915
LOST_AT_MOST = {"exact": 0.2, "0.3": 0.3, "0.5": 0.6, "0.65": 1.5}
COSTS = (0.35, 0.45, 0.55, 0.65, 0.75)
AHEAD_BY, AT_COSTS = 0.7, 2
HALF = "0.5"
VARIES, KEPT = 0.05, (0.1, 0.9)


def compare(bench: Bench) -> Row:
    """All figures that need no clock."""
    families = all_families(bench)
    positions = bench.positions({each: None for family in families.values() for each in family}, "test")
    places = {family: [positions[each] for each in candidates] for family, candidates in families.items()}
    return {
        "twin": _twin(bench),
        "lost": [_lost(bench, network, asked) for network in (GATED, EXITS) if network in bench.bundles
                 for asked in LOST_AT_MOST],
        "rivals": [_row(ours, rival, places, cost) for ours in OWN if ours in places
                   for rival in RIVALS if rival in places for cost in COSTS],
        "layers": _layers(bench) if GATED in bench.bundles else [],
        "positions": [_position(family, each, positions[each]) for family, candidates in families.items()
                      for each in candidates],
    }  # fmt: skip


def candidate_at(bench: Bench, network: str, asked: str) -> Candidate | None:
    """What a request for ``exact`` or a skip ratio is served; None beyond the last point."""
    bundle = bench.bundles[network]
    if asked != "exact" and float(asked) > bundle.table.sparsity_range[1]:
        return None
    point = at(bundle, operating_point="exact") if asked == "exact" else at(bundle, sparsity=float(asked))
    return Candidate(network, bundle.preprocessing.size, asked, point.setting)


def twin_candidate(bench: Bench) -> Candidate:
    bundle = bench.bundles[TWIN]
    return Candidate(TWIN, bundle.preprocessing.size, "exact", bundle.table.exact.setting)


def _twin(bench: Bench) -> Row:
    right = bench.position(twin_candidate(bench), "test").right
    return {
        "size": bench.bundles[TWIN].preprocessing.size, "macs": bench.twin_macs, "images": len(right),
        "accuracy": float(right.mean()), "interval": list(wilson(int(right.sum()), len(right))), "goal": TWIN_AT_LEAST,
    }  # fmt: skip


def _lost(bench: Bench, network: str, asked: str) -> Row:
    """Percentage points lost against the plain twin at a skip ratio, image by image."""
    candidate = candidate_at(bench, network, asked)
    if candidate is None:
        return {"network": network, "asked": asked, "out_of_reach": bench.bundles[network].table.sparsity_range[1]}
    position = bench.position(candidate, "test")
    shape = bench.engine(network, candidate.size).shape
    lost, interval = paired(bench.position(twin_candidate(bench), "test").right, position.right)
    return {
        "network": network, "asked": asked, "skip_ratio": bench.measured(candidate, "test").skip_ratio(shape),
        "work": position.work, "accuracy": float(position.right.mean()),
        "lost": lost, "interval": interval, "goal": LOST_AT_MOST[asked],
    }  # fmt: skip


def _row(ours: str, rival: str, places: dict[str, list[Position]], cost: float) -> Row:
    """Points ahead of a rival at equal cost, with an interval that holds for all costs together."""
    mine, theirs = places[ours], _and_beyond(places[rival])
    ahead, interval = ahead_at(mine, theirs, cost, corrected(len(COSTS)))
    return {
        "ours": ours, "rival": rival, "work": cost, "accuracy": accuracy_at(mine, cost),
        "rival_accuracy": accuracy_at(theirs, cost), "ahead": ahead, "interval": interval, "goal": AHEAD_BY,
    }  # fmt: skip


def _and_beyond(positions: list[Position]) -> list[Position]:
    """A rival whose best needs less than all of the work has that at any higher cost, too."""
    best = max(positions, key=lambda position: position.work)
    return positions if best.work >= 1 else [*positions, Position(1.0, best.right)]


def _layers(bench: Bench) -> list[Row]:
    """Every layer of the network with gates at a skip ratio of 0.5: does it decide by image, and by position?"""
    candidate = candidate_at(bench, GATED, HALF)
    if candidate is None:
        return []
    shape, measured = bench.engine(GATED, candidate.size).shape, bench.measured(candidate, "test")
    ratios = shape.layer_skip_ratios(measured.kept)
    within = ((1 - ratios >= KEPT[0]) & (1 - ratios <= KEPT[1])).mean(0)
    return [
        {
            "layer": layer.name, "side": layer.convolution.height, "channels": layer.convolution.out_channels,
            "skip_ratio": float(mean), "deviation": float(deviation), "images_within": float(share),
            "varies": bool(deviation > VARIES), "decides_by_position": bool(share >= 0.5),
        }
        for layer, mean, deviation, share in zip(shape.layers, ratios.mean(0), ratios.std(0), within, strict=True)
    ]  # fmt: skip


def _position(family: str, candidate: Candidate, position: Position) -> Row:
    return {
        "family": family, "network": candidate.network, "size": candidate.size, "point": candidate.point,
        "removed": list(candidate.removed), "work": position.work, "accuracy": float(np.mean(position.right)),
    }  # fmt: skip
