"""How long pruned networks take on the native engine, and the shipped network where it saves as much.

    python -m benchmarks.rivals.timing DATA [--model FOLDER] [--rounds N]

ResNet-20, in fp32, in batches of 32 test images, on two threads. The plain network and the pruned ones have fresh
weights, which take as long as trained ones. Of the shipped network with gates and SideNets those points are taken that
come closest to saving a share of the plain network's operations; their accuracy is measured too. Everything runs in
turns; times are shares of the plain network's in the same turn, medians.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

import lccl
from benchmarks import results
from benchmarks.models import Position, load_model, model_command_line, turn_of
from benchmarks.rivals.kinds import RIVALS
from lccl.bench.turns import take_turns
from lccl.compiler import compile_network
from lccl.engines.base import Engine
from lccl.measurement import exact_setting, measure
from lccl.networks import ResNet, build
from lccl.plan.run import Setting

RESULT = "rivals_time"
PRUNED = ("pfec-24", "pfec-35")
SAVED = (0.25, 0.35, 0.5, 0.6)
OWN, PLAIN = "LCCL and SideNets", "plain"
BATCH, BATCHES, THREADS = 32, 8, 2


def main() -> None:
    """Measure, print, write the result file."""
    options = model_command_line(__doc__, results.argument("--rounds", type=int, default=31)).parse_args()
    bundle, dataset = load_model(options)
    random = np.random.default_rng(0)
    batches = [dataset.test.images[random.permutation(len(dataset.test))[:BATCH]] for _ in range(BATCHES)]

    def compiled(network: ResNet) -> Engine:
        return compile_network(network, "cpu", "fp32", threads=THREADS, preprocessing=bundle.preprocessing)

    torch.manual_seed(0)
    plain = build(bundle.architecture.plain_twin).eval()
    whole = compiled(plain)
    turns: dict[str, tuple[Engine, Setting]] = {PLAIN: (whole, exact_setting(whole))}
    rows: list[dict[str, Any]] = []
    for name in PRUNED:
        pruned = copy.deepcopy(plain)
        RIVALS[name].change(pruned)
        engine = compiled(pruned)
        turns[name] = engine, exact_setting(engine)
        rows.append({"what": name, "saved": 1 - RIVALS[name].operations(pruned) / whole.shape.dense})
    own = lccl.compile(bundle, engine="cpu", precision="fp32", threads=THREADS)
    for saved in SAVED:
        wanted = (1 - saved) * own.shape.dense
        point = min(bundle.table.points, key=lambda point: abs(point.gated_macs - wanted))
        turns[f"{OWN} {point.name}"] = own, point.setting
        found = measure(own, dataset.test, point.setting)
        work = Position.of(own, found).work
        rows.append({"what": f"{OWN} {point.name}", "saved": 1 - work, "accuracy": found.accuracy})
    samples = take_turns(
        {name: turn_of(engine, batches, each) for name, (engine, each) in turns.items()}, options.rounds, 1
    )
    for row in rows:
        shares = samples.seconds[row["what"]] / samples.seconds[PLAIN]
        row["time"], row["quartiles"] = float(np.median(shares)), np.quantile(shares, [0.25, 0.75]).tolist()
    results.publish(RESULT, {"batch": BATCH, "threads": THREADS, "images": len(dataset.test), "rows": rows})


if __name__ == "__main__":
    main()
