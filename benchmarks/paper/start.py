"""How a gated network begins: how heavy the tails of its blocks' outputs are before the first step.

    python -m benchmarks.paper.start --data PATH

A gate that follows its input multiplies large values by large ones, in every layer anew. Normalisation divides by the
deviation, which a few positions then have to themselves, and all others hardly differ from 0. The kurtosis tells: 3
for normal values, and at most the number of values, if all but one are equal. Writes results/paper-start.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import results
from lccl.data import load_dataset
from lccl.networks import Architecture, ResNet, build
from lccl.networks.inputs import normalise
from lccl.networks.resnet import Form
from lccl.train.export import network_input
from lccl.train.loop import channel_statistics, first_gates

NAME = "paper-start"
IMAGES = 512
FORMS: tuple[Form, ...] = ("pre", "post")
STARTS = {"half open: 0 ± 1": (1.0, 0.0), "1 ± 1": (1.0, 1.0), "1 ± 0.25": (0.25, 1.0), "1 ± 0.1": (0.1, 1.0)}


def kurtosis(network: ResNet, images: Tensor) -> list[float]:
    """Of each block's output for images [N, 3, H, W], normalised with their own statistics: channels' median."""
    found: list[float] = []

    def look(_: nn.Module, __: object, output: tuple[Tensor, object]) -> None:
        centred = output[0] - output[0].mean((0, 2, 3), keepdim=True)
        second, fourth = ((centred**power).mean((0, 2, 3)) for power in (2, 4))
        found.append(float((fourth / second**2).median()))

    handles = [block.register_forward_hook(look) for block in network.blocks]
    with torch.no_grad():
        network.train()(images)
    for handle in handles:
        handle.remove()
    return found


def begun(form: Form, start: tuple[float, float] | None, seed: int = 0) -> ResNet:
    """A fresh ResNet-20 with shared gates that begin with this scale and shift; without them its plain twin."""
    torch.manual_seed(seed)
    network = build(Architecture("resnet20", form, "none" if start is None else "shared"))
    if start is not None:
        first_gates(network, *start)
    return network


def main(words: Sequence[str] | None = None) -> None:
    """Print and write the figures."""
    parser = results.command_line(
        __doc__, results.argument("--data", type=Path, default=results.usual_data(), help="32 × 32 images")
    )
    asked: argparse.Namespace = parser.parse_args(words)
    if asked.data is None:
        parser.error("give --data")
    split = load_dataset(asked.data, network_input(32)).train
    chosen = split.subset(np.random.default_rng(0).permutation(len(split))[:IMAGES]).loaded()
    images = normalise(chosen.images[:], channel_statistics(chosen))
    rows = [
        {"form": form, "gates": name, "kurtosis": [round(value, 1) for value in kurtosis(begun(form, start), images)]}
        for form in FORMS
        for name, start in {"none": None, **STARTS}.items()
    ]
    results.publish(NAME, {"images": len(images), "rows": rows})


if __name__ == "__main__":
    main()
