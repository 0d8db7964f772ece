"""``lccl train`` and ``lccl attach``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import lccl
from lccl.cli.terminal import (
    Data,
    NewBundle,
    Threads,
    console,
    load_data,
    save_with_self_test,
    training_progress,
    use_threads,
)
from lccl.errors import LcclError

if TYPE_CHECKING:
    from lccl.preprocessing import Statistics

NAMES = (
    "CIFAR: resnet20, 32, 44, 56, 110, 164, wrn-16-4, 22-8, 28-2, 28-10, 40-1, 40-2, 40-4, 52-1. "
    "ImageNet: resnet18, 34, 50."
)
Runs = Annotated[Path, typer.Option(help="Where checkpoints and records go.")]
LearningRate = Annotated[float, typer.Option(help="Highest learning rate.")]
TrainingPrecision = Annotated[str, typer.Option(help="fp32, or bf16 autocast.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:i.")]
CompileNetwork = Annotated[bool, typer.Option("--compile", help="Compile the network first.")]
Network = Annotated[str, typer.Option(help=NAMES)]


def train(
    data: Data,
    out: NewBundle,
    runs: Runs = Path("runs"),
    network: Network = "resnet20",
    form: Annotated[str, typer.Option(help="Block form: post or pre activation; auto is the network's own.")] = "auto",
    gate: Annotated[str, typer.Option(help="shared, pointwise, grouped:G[:1x1]; none is the plain twin.")] = "shared",
    placement: Annotated[
        str, typer.Option(help="Pre-activation: aft-aft, aft-bef, bef-bef or bef-aft (BN + ReLU), what gates read.")
    ] = "aft-aft",
    gate_norm: Annotated[bool, typer.Option(help="Normalise gates: ReLU(BN(conv)), else ReLU(conv).")] = True,
    split: Annotated[
        str, typer.Option(help="Split the blocks' 3×3 convolutions (SPConv): 1/2, 1/4 …, the share of 3×3 channels.")
    ] = "none",
    gate_l1: Annotated[
        float, typer.Option(help="Weight of the mean gate value in the loss: regularised gates, with --no-gate-norm.")
    ] = 0.0,
    epochs: int = 20,
    batch: int = 128,
    lr: LearningRate = 0.1,
    seed: int = 0,
    precision: TrainingPrecision = "fp32",
    start: Annotated[Path | None, typer.Option(help="A bundle of the same network to train further.")] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="A bundle whose answers are learned too: the plain twin's.")
    ] = None,
    distill: Annotated[
        float | None, typer.Option(help="Weight of the teacher's answers against the labels', 0..1.  [default: 0.7]")
    ] = None,
    device: Device = "cpu",
    compile_network: CompileNetwork = False,
    threads: Threads = 0,
) -> None:
    """Train an LCCL network or its plain twin; continues where an earlier run stopped."""
    from lccl.compiler import choose_device
    from lccl.networks import Architecture, build
    from lccl.train.export import network_input, train_bundle
    from lccl.train.recipe import Recipe, continued

    use_threads(threads)
    if gate == "none" and gate_l1:
        raise LcclError("--gate-l1 weighs gates, and --gate none has none: leave one of them out")
    if distill is not None and teacher is None:
        raise LcclError("--distill weighs a teacher's answers: name one with --teacher, or leave it out")
    if distill == 0:
        raise LcclError("--distill 0 leaves the teacher's answers out: leave --teacher and --distill out")
    recipe = Recipe(epochs=epochs, batch=batch, lr=lr, seed=seed, precision=precision, gate_l1=gate_l1)
    recipe = recipe if distill is None else replace(recipe, distill=distill)
    recipe = recipe if start is None else continued(recipe)
    target = choose_device(device)
    chosen = Architecture(network, form, gate, placement=placement, gate_norm=gate_norm, split=split)
    origins = {"start": lccl.load(start) if start else None, "teacher": lccl.load(teacher) if teacher else None}
    dataset = load_data(data, network_input(build(chosen).image_size))
    with training_progress() as report:
        trained = train_bundle(
            chosen, dataset, recipe, runs / out.name,
            device=target, compile_network=compile_network, report=report, **origins,
        )  # fmt: skip
    _save_trained(trained, out)


def attach(
    weights: Annotated[Path, typer.Argument(help="A plain ResNet: a .safetensors file, or a bundle's folder.")],
    data: Data,
    out: NewBundle,
    runs: Runs = Path("runs"),
    network: Annotated[str | None, typer.Option(help="What it must be; without it the weights' shapes tell.")] = None,
    gate: Annotated[str, typer.Option(help="shared, pointwise, grouped:G[:1x1].")] = "shared",
    labels: Annotated[
        Path | None, typer.Option(help="Class names in the order of the network's outputs; else the folders', sorted.")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="R,G,B of its normalisation, for values in 0..1.")] = None,
    std: Annotated[
        str | None, typer.Option(help="R,G,B; without both ImageNet's, or a small network's data's.")
    ] = None,
    centred: Annotated[
        bool, typer.Option("--centred-shortcuts", help="Its type-A shortcuts put zero channels on both sides.")
    ] = False,
    epochs: int = 5,
    batch: int = 128,
    lr: LearningRate = 0.05,
    seed: int = 0,
    precision: TrainingPrecision = "fp32",
    device: Device = "cpu",
    compile_network: CompileNetwork = False,
    threads: Threads = 0,
) -> None:
    """Turn a trained plain ResNet into an LCCL network; continues where an earlier run stopped."""
    from lccl.compiler import choose_device
    from lccl.train import attach as attaching
    from lccl.train.export import network_input
    from lccl.train.plain_weights import read_plain
    from lccl.train.recipe import Recipe, attached

    use_threads(threads)
    recipe = attached(Recipe(epochs=epochs, batch=batch, lr=lr, seed=seed, precision=precision))
    target = choose_device(device)
    plain = read_plain(weights, network, centred=centred)
    architecture = attaching.gated(plain, gate)
    preprocessing = attaching.input_of(plain, _statistics(mean, std))
    order = attaching.read_labels(labels) if labels else None
    dataset = load_data(data, preprocessing or network_input(plain.network.image_size))
    attachment = attaching.prepare(plain, dataset, preprocessing, order)
    twin = attachment.plain_twin
    tested = f", {twin.test.accuracy:.4f} on test images" if twin.test else ""
    console.print(f"{weights}: accuracy {twin.accuracy:.4f} on held-out images{tested}, plain {architecture.name}")
    if attachment.doubtful:
        console.print(
            "[yellow]warning[/yellow] that is hardly better than guessing: "
            "--mean and --std, the order of --labels or the images' size are probably not its own"
        )
    with training_progress() as report:
        trained = attaching.attach(
            attachment, architecture, recipe, runs / out.name,
            device=target, compile_network=compile_network, report=report,
        )  # fmt: skip
    _save_trained(trained, out)


def _save_trained(bundle: lccl.Bundle, out: Path) -> None:
    save_with_self_test(bundle, out)
    console.print(f"{out}: accuracy {bundle.table.exact.accuracy:.4f} on held-out images, exact")


def _statistics(mean: str | None, std: str | None) -> Statistics | None:
    """Both as triples of numbers, or None where neither is given."""
    if mean is None and std is None:
        return None
    try:
        (red, green, blue), (*deviations,) = (map(float, (text or "").split(",")) for text in (mean, std))
        return (red, green, blue), (deviations[0], deviations[1], deviations[2])
    except (ValueError, IndexError) as error:
        raise LcclError("give --mean and --std together, each as three numbers R,G,B") from error
