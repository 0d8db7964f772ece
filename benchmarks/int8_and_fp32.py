"""The native engine in int8 beside itself in fp32, in turns on one machine.

    python -m benchmarks.int8_and_fp32 [--rounds N]

ResNet-18 on images of 224 × 224 with fresh weights: its plain twin, and with gates at a skip ratio of 0.5, which the
two precisions reach with thresholds of their own. The result file is named after the instruction set that int8 runs in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from benchmarks import results
from lccl.bench import cpu
from lccl.bench.images import noise_images
from lccl.bench.turns import Contestant, Turn, take_turns
from lccl.bench.workload import OPEN, OWN, OWN_DENSE, find_model, images_needed, make_workload
from lccl.engines.cpu.engine import instruction_sets

NETWORK, SKIP = "resnet18", 0.5
BATCHES, THREADS = (1, 8), 2
PRECISIONS = ("fp32", "int8")
WHAT = (OWN_DENSE, f"{OWN} {SKIP}")


def main() -> None:
    """Measure, print, write the result file."""
    options = results.command_line(__doc__, results.argument("--rounds", type=int, default=15)).parse_args()
    chosen = [next(name for name, precision in instruction_sets() if precision == wanted) for wanted in PRECISIONS]
    rows = [row for batch in BATCHES for row in compared(batch, options.rounds)]
    results.publish(
        f"int8-and-fp32-{chosen[-1]}",
        {
            "network": NETWORK,
            "instruction_sets": dict(zip(PRECISIONS, chosen, strict=True)),
            "threads": THREADS,
            "rounds": options.rounds,
            "rows": rows,
        },
    )


def compared(batch: int, rounds: int) -> Iterator[dict[str, Any]]:
    """A row for the plain twin and one for the network with gates, both in both precisions."""
    with ExitStack() as stack:
        turns: dict[str, Turn] = {}
        for precision in PRECISIONS:
            turns |= {f"{precision} {each.name}": each.turn for each in _contestants(batch, precision, stack)}
        samples = take_turns(turns, rounds)
    for what in WHAT:
        float_name, integer_name = (f"{precision} {what}" for precision in PRECISIONS)
        yield {
            "batch": batch, "what": what, "fp32_ms": 1000 * samples.median(float_name),
            "int8_ms": 1000 * samples.median(integer_name), "speed_up": samples.ratio(float_name, integer_name),
        }  # fmt: skip


def _contestants(batch: int, precision: str, stack: ExitStack) -> list[Contestant]:
    model = find_model(NETWORK, precision=precision)
    images = noise_images(images_needed(model, batch), model.preprocessing.size)
    workload = make_workload(model, images, batch, (SKIP,))
    own = cpu.start(workload, (THREADS,), precision, False, lambda: None, stack)
    return [each for each in own if each.setting != OPEN]


if __name__ == "__main__":
    main()
