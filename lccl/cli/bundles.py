"""``lccl compare`` and ``lccl self-test``: what is entered into a bundle that is there."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import lccl
from lccl.cli.terminal import BundleFolder, console, print_points, save_with_self_test
from lccl.errors import LcclError


def compare(
    bundle: BundleFolder,
    twin: Annotated[Path, typer.Argument(help="The folder of its plain twin's bundle.")],
) -> None:
    """Enter the plain twin's figures, trained and measured on the same images, into a bundle and its model card."""
    from lccl.bundle.model_card import write_card
    from lccl.train.export import twin_record

    loaded, plain = lccl.load(bundle), lccl.load(twin)
    if plain.architecture != loaded.architecture.plain_twin:
        raise LcclError(f"{twin} is not the plain twin of this bundle")
    if plain.splits != loaded.splits:
        raise LcclError(f"{twin} was trained and measured on other images")
    compared = replace(loaded, training=replace(loaded.training, plain_twin=twin_record(plain)))
    lccl.save(compared, bundle)
    write_card(compared, bundle)
    print_points(compared)


def self_test(bundle: BundleFolder) -> None:
    """Record what the model answers to images drawn from a seed; a server checks it before it serves the model."""
    save_with_self_test(lccl.load(bundle), bundle)


def canary(bundle: BundleFolder) -> None:
    """Do what ``lccl self-test`` does, under its name before version 0.2."""
    console.print("[yellow]warning[/yellow] lccl canary is now lccl self-test; this name goes with the next version")
    self_test(bundle)
