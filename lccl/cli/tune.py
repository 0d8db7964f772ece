"""``lccl tune``: the cuda engine's table of tiles for the GPU at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import lccl
from lccl.cli.terminal import MODEL, console
from lccl.errors import LcclError

if TYPE_CHECKING:
    from lccl.plan.steps import Plan

USUAL = ("resnet18", "wrn-28-10", "resnet34", "resnet50")


def tune(
    networks: Annotated[list[str] | None, typer.Argument(help=f"{MODEL} Without any: {', '.join(USUAL)}.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The table. Without it the one that the engine reads for this GPU.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images in the batches that are timed.")] = 128,
    precision: Annotated[str, typer.Option(help="fp16 or bf16; both use the same table.")] = "fp16",
    device: Annotated[str, typer.Option(help="cuda or cuda:i.")] = "cuda",
) -> None:
    """Find the fastest tiles of the cuda engine's convolutions on a GPU and write them down."""
    import torch

    from lccl import provenance
    from lccl.compiler import choose_device

    place = choose_device(device)
    if place.type != "cuda":
        raise LcclError("tiles are tuned on a GPU: give --device cuda")
    try:
        from lccl.engines.cuda import devices, tiles
        from lccl.engines.cuda.engine import PRECISIONS
        from lccl.engines.cuda.tune import tune as find
    except ImportError as error:
        raise LcclError(f"the cuda engine cannot be loaded ({error}): install a CUDA build of torch") from error
    if precision not in PRECISIONS:
        raise LcclError(f"no precision {precision!r}: use fp16 or bf16")
    name = torch.cuda.get_device_name(place)
    path = out or tiles.FOLDER / f"{devices.slug(name)}.json"
    made = {"torch": torch.__version__, "batch": batch, "command": provenance.command(), "commit": provenance.commit()}
    tuned: dict[tiles.Shape, tiles.Tile] = {}
    for network in networks or USUAL:
        with torch.inference_mode(), torch.cuda.device(place):
            for shape, tile in find(_lowered(network), batch, place, PRECISIONS[precision], known=tuned):
                tuned[shape] = tile
                tiles.write(path, name, tuned, made)  # each time: tuning takes minutes, and may be stopped
                console.print(f"{shape}  {tile}", highlight=False)
    console.print(path)


def _lowered(network: str) -> Plan:
    """The plan of a bundle, or of a network by name with fresh weights."""
    from lccl.bundle.format import bundle_folder
    from lccl.networks import Architecture, build
    from lccl.networks.lowering import lower
    from lccl.preprocessing import Preprocessing

    folder = bundle_folder(network)
    if folder is None:
        fresh = build(Architecture(network)).eval()
        size = fresh.image_size
        return lower(fresh, Preprocessing(size, size, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
    bundle = lccl.load(folder)
    return lower(bundle.network, bundle.preprocessing)
