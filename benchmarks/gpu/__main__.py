"""Measures the own kernels and networks on a GPU; ``benchmarks/on_gpu.sh`` runs it with the rest.

    python -m benchmarks.gpu kernels --out OUT [--network NAME ...] [--batch 256] [--tiles FILE]
    python -m benchmarks.gpu networks --out OUT [--case NAME ...] [--tiles FILE] [--seconds S]

``kernels`` writes OUT/kernels.json and ``networks`` OUT/networks.json, anew after each layer or case.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import results
from benchmarks.gpu import environment, kernels, networks
from benchmarks.gpu.layers import layers_on
from benchmarks.gpu.networks import CASES
from benchmarks.gpu.summary import write
from lccl import provenance
from lccl.bench.gpu import Gpu
from lccl.bench.report import showing
from lccl.engines.cuda.tiles import read, tiles_for
from lccl.errors import LcclError


def main() -> None:
    """Measure what is asked for."""
    parser = results.command_line(
        __doc__,
        results.argument("what", choices=("kernels", "networks")),
        results.argument("--out", type=Path, required=True, help="folder of the result files"),
        results.argument("--device", default="cuda", help="cuda or cuda:i"),
        results.argument("--precision", choices=("fp16", "bf16"), default="fp16", help="of the own kernels"),
        results.argument("--tiles", type=Path, help="a table that `lccl tune` wrote; default: the engine's own"),
        results.argument("--rounds", type=int, default=9, help="turns of each contestant"),
        results.argument("--network", nargs="+", help="kernels: whose layers; default: resnet18 wrn-28-10"),
        results.argument("--batch", type=int, default=256, help="kernels: images"),
        results.argument(
            "--case",
            nargs="+",
            choices=[case.name.replace(" ", "-") for case in CASES],
            help="networks: which; default: all",
        ),
        results.argument("--seconds", type=float, default=1e9, help="networks: begin nothing after that time"),
    )
    asked = parser.parse_args()
    try:
        device = environment.device_of(asked.device)
        if device.type != "cuda":
            parser.error("give a GPU: cuda or cuda:i")
        torch.cuda.set_device(device)
        _measure(asked, device)
    except LcclError as error:
        parser.exit(1, f"error: {error}\n")


def _measure(asked: argparse.Namespace, device: torch.device) -> None:
    head = {"command": provenance.command(), **environment.describe(device), "precision": asked.precision}
    name = torch.cuda.get_device_name(device)
    tiles = tiles_for(name) if asked.tiles is None else read(asked.tiles, name)
    console, gpu = Console(), Gpu.on(device, asked.precision, tiles)

    def keep(made: dict[str, Any]) -> None:
        write(asked.out / f"{asked.what}.json", {**head, **made})

    if asked.what == "kernels":
        layers = [layer for network in asked.network or kernels.NETWORKS for layer in kernels.layers_of(network)]
        own = layers_on(device, asked.precision, tiles)
        kernels.show(
            kernels.measure(layers, kernels.Bench(asked.batch, own, gpu.clock, device, asked.rounds), keep), console
        )
        return
    cases = [case for case in CASES if not asked.case or case.name.replace(" ", "-") in asked.case]
    with showing(console) as stages:
        limited = replace(gpu, until=time.monotonic() + asked.seconds)
        made = networks.measure_all(cases, limited, asked.rounds, stages, keep)
    networks.show(made, console)


if __name__ == "__main__":
    main()
