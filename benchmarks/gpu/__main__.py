"""Measures the own kernels and networks on a GPU; ``benchmarks/on_gpu.sh`` runs it with the rest.

    python -m benchmarks.gpu kernels --out OUT [--network NAME ...] [--batch 256] [--tiles FILE]
    python -m benchmarks.gpu networks --out OUT [--case NAME ...] [--tiles FILE] [--seconds S]

``kernels`` writes OUT/kernels.json and ``networks`` OUT/networks.json, anew after each layer or case.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.gpu import environment, kernels, networks, ours
from benchmarks.gpu.kernels import Effort
from benchmarks.gpu.networks import CASES
from benchmarks.gpu.summary import write
from benchmarks.gpu.timing import DeviceClock
from lccl.errors import LcclError


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is asked for."""
    words = sys.argv[1:] if words is None else words
    parser = _parser()
    asked = parser.parse_args(words)
    command = f"python -m benchmarks.gpu {shlex.join(words)}"
    try:
        device = environment.device_of(asked.device)
        if device.type != "cuda":
            parser.error("give a GPU: cuda or cuda:i")
        torch.cuda.set_device(device)
        made = environment.describe(device)
        keep = _keeper(asked.out / f"{asked.what}.json", {"command": command, **made, **_asked_of_own(asked)})
        {"kernels": _kernels, "networks": _networks}[asked.what](asked, device, keep)
    except LcclError as error:
        parser.exit(1, f"error: {error}\n")


def _kernels(asked: argparse.Namespace, device: torch.device, keep: Callable[[dict[str, Any]], None]) -> None:
    own = ours.layers_on(device, asked.precision, ours.find_tiles(asked.tiles, device))
    layers = [layer for network in asked.network or kernels.NETWORKS for layer in kernels.layers_of(network)]
    effort = Effort(rounds=asked.rounds)
    made = kernels.measure(layers, asked.batch, own, DeviceClock(device), device, effort, keep)
    kernels.show(made, Console())


def _networks(asked: argparse.Namespace, device: torch.device, keep: Callable[[dict[str, Any]], None]) -> None:
    make = ours.networks_on(device, asked.precision, ours.find_tiles(asked.tiles, device), asked.program)
    cases = [case for case in CASES if not asked.case or case.name.replace(" ", "-") in asked.case]
    until = time.monotonic() + asked.seconds
    made = networks.measure_all(cases, make, DeviceClock(device), device, asked.rounds, until, keep)
    networks.show(made, Console())


def _asked_of_own(asked: argparse.Namespace) -> dict[str, str]:
    return {"precision": asked.precision, "program": asked.program}


def _keeper(file: Path, head: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda made: write(file, {**head, **made})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("what", choices=("kernels", "networks"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the result files")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:i")
    parser.add_argument("--precision", choices=("fp16", "bf16"), default="fp16", help="of the own kernels")
    programs = ("auto", "layers", "image")
    parser.add_argument("--program", choices=programs, default="auto", help="networks: how the own engine runs them")
    parser.add_argument("--tiles", type=Path, help="a table that `lccl tune` wrote; default: the engine's own")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contestant")
    parser.add_argument("--network", nargs="+", help="kernels: whose layers; default: resnet18 wrn-28-10")
    parser.add_argument("--batch", type=int, default=256, help="kernels: images")
    names = [case.name.replace(" ", "-") for case in CASES]
    parser.add_argument("--case", nargs="+", choices=names, help="networks: which; default: all")
    parser.add_argument("--seconds", type=float, default=1e9, help="networks: begin nothing after that time")
    return parser


if __name__ == "__main__":
    main()
