"""``lccl train`` and ``lccl attach``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import lccl
from lccl.cli import options as asked
from lccl.cli.terminal import (
    Cache,
    Data,
    NewBundle,
    Threads,
    console,
    keep_freed_memory,
    load_data,
    save_with_self_test,
    say_skipped,
    training_progress,
    use_threads,
    working,
)
from lccl.errors import LcclError

if TYPE_CHECKING:
    from lccl.preprocessing import Statistics
    from lccl.train.attach import Attachment


def train(
    data: Data,
    out: NewBundle,
    runs: asked.Runs = Path("runs"),
    network: asked.Network = None,
    size: asked.Size = None,
    fit: asked.Fit = None,
    form: asked.Form = None,
    gate: asked.Gate = None,
    placement: asked.Placement = None,
    gate_norm: asked.GateNorm = None,
    split: asked.Split = None,
    gate_l1: asked.GateL1 = 0.0,
    epochs: asked.Epochs = None,
    batch: asked.Batch = None,
    lr: asked.LearningRate = None,
    seed: int = 0,
    precision: asked.Precision = None,
    start: asked.Start = None,
    teacher: asked.Teacher = None,
    distill: asked.Distill = None,
    quantize: asked.Quantize = False,
    closing: asked.Closing = "blocks",
    device: asked.Device = "cpu",
    compile_network: asked.CompileNetwork = False,
    cache: Cache = None,
    workers: asked.Workers = None,
    tensorboard: asked.Tensorboard = None,
    threads: Threads = 0,
) -> None:
    """Train an LCCL network or its plain twin; continues where an earlier run stopped."""
    from lccl.train.choices import adapted, chosen, named
    from lccl.train.export import train_bundle

    use_threads(threads)
    keep_freed_memory()
    if gate == "none" and gate_l1:
        raise LcclError("--gate-l1 weighs gates, and --gate none has none: leave one of them out")
    if distill is not None and teacher is None:
        raise LcclError("--distill weighs a teacher's answers: name one with --teacher, or leave it out")
    if distill == 0:
        raise LcclError("--distill 0 leaves the teacher's answers out: leave --teacher and --distill out")
    begun = lccl.load(start) if start else None
    shape = {"form": form, "placement": placement, "gate_norm": gate_norm, "split": split}
    architecture = named(network, gate, shape, begun)
    given = {
        "epochs": epochs, "batch": batch, "lr": lr, "seed": seed, "precision": precision, "gate_l1": gate_l1,
        "distill": distill, "quantize": quantize, "closing": closing,
    }  # fmt: skip
    choice = chosen(architecture, begun, size, fit, device, given)
    taught = lccl.load(teacher) if teacher else None
    dataset = load_data(data, choice.preprocessing, cache)
    recipe = adapted(choice, dataset, begun)
    with training_progress(tensorboard) as report:
        trained = train_bundle(
            architecture, dataset, recipe, runs / out.name,
            device=choice.device, compile_network=compile_network, report=report, start=begun, teacher=taught,
            preprocessing=choice.preprocessing, workers=workers,
        )  # fmt: skip
    _save_trained(trained, out)
    say_skipped(dataset)


def attach(
    weights: asked.Weights,
    data: Data,
    out: NewBundle,
    runs: asked.Runs = Path("runs"),
    network: asked.AnyNetwork = None,
    size: asked.Size = None,
    fit: asked.Fit = None,
    gate: asked.AttachedGate = "shared",
    labels: asked.Labels = None,
    mean: asked.Mean = None,
    std: asked.Std = None,
    centred: asked.Centred = False,
    epochs: asked.AttachedEpochs = 5,
    batch: asked.Batch = None,
    lr: asked.AttachedRate = None,
    seed: int = 0,
    precision: asked.Precision = None,
    closing: asked.Closing = "blocks",
    device: asked.Device = "cpu",
    compile_network: asked.CompileNetwork = False,
    cache: Cache = None,
    workers: asked.Workers = None,
    tensorboard: asked.Tensorboard = None,
    threads: Threads = 0,
) -> None:
    """Turn a trained plain ResNet into an LCCL network; continues where an earlier run stopped."""
    from lccl.train import attach as attaching
    from lccl.train.choices import chosen_to_attach, fewer
    from lccl.train.plain_weights import read_plain

    use_threads(threads)
    keep_freed_memory()
    plain = read_plain(weights, network, centred=centred)
    given = {"epochs": epochs, "batch": batch, "lr": lr, "seed": seed, "precision": precision, "closing": closing}
    architecture = attaching.gated(plain, gate)
    statistics = _statistics(mean, std)
    choice = chosen_to_attach(plain, statistics, size, fit, device, given)
    order = attaching.read_labels(labels) if labels else None
    dataset = load_data(data, choice.preprocessing, cache)
    with working(f"measuring {weights}") as update:
        attachment = attaching.prepare(
            plain, dataset, choice.preprocessing, order,
            lambda _, done, of, __: update(f"measuring {weights}: {done:,} of {of:,}"),
            own_statistics=attaching.input_of(plain, statistics) is None,
        )  # fmt: skip
    _say_attached(attachment, weights)
    with training_progress(tensorboard) as report:
        trained = attaching.attach(
            attachment, architecture, fewer(choice, dataset), runs / out.name,
            device=choice.device, compile_network=compile_network, report=report, workers=workers,
        )  # fmt: skip
    _save_trained(trained, out)
    say_skipped(dataset)


def _say_attached(attachment: Attachment, weights: Path) -> None:
    """The plain network's accuracy before any training, and a warning where it is too low to be true."""
    twin, name = attachment.plain_twin, attachment.plain.architecture.name
    tested = f", {twin.test.accuracy:.4f} on test images" if twin.test else ""
    console.print(f"{weights}: accuracy {twin.accuracy:.4f} on held-out images{tested}, plain {name}")
    if attachment.doubtful:
        console.print(
            "[yellow]warning[/yellow] that is hardly better than guessing: "
            "--mean and --std, the order of --labels or the images' size are probably not its own"
        )


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
