"""``lccl``: train, calibrate, evaluate and measure models; offline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lccl.cli import sidenet, tune
from lccl.cli.terminal import (
    BundleFolder,
    Data,
    NewBundle,
    Threads,
    console,
    counting,
    load_data,
    new_table,
    one_sentence_errors,
    print_points,
    training_progress,
    use_threads,
)
from lccl.errors import LcclError

if TYPE_CHECKING:
    from lccl.bundle.format import Bundle

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(sidenet.app, name="sidenet")
app.command()(tune.tune)

Runs = Annotated[Path, typer.Option(help="Where checkpoints and records go.")]
LearningRate = Annotated[float, typer.Option(help="Highest learning rate.")]
TrainingPrecision = Annotated[str, typer.Option(help="fp32, or bf16 autocast.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:i.")]
CompileNetwork = Annotated[bool, typer.Option("--compile", help="Compile the network first.")]


@app.command()
def train(
    data: Data,
    out: NewBundle,
    runs: Runs = Path("runs"),
    network: Annotated[
        str,
        typer.Option(
            help="CIFAR: resnet20, 32, 44, 56, 110, 164, wrn-16-4, 22-8, 28-2, 28-10, 40-1, 40-2, 40-4, 52-1. "
            "ImageNet: resnet18, 34, 50."
        ),
    ] = "resnet20",
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
    from lccl.bundle import format as bundles
    from lccl.compiler import choose_device
    from lccl.data import hold_out
    from lccl.networks import Architecture, build
    from lccl.train.export import first_bundle, network_input
    from lccl.train.loop import train as run
    from lccl.train.recipe import Recipe, continued

    with one_sentence_errors():
        use_threads(threads)
        if gate == "none" and gate_l1:
            raise LcclError("--gate-l1 weighs gates, and --gate none has none: leave one of them out")
        if distill is not None and teacher is None:
            raise LcclError("--distill weighs a teacher's answers: name one with --teacher, or leave it out")
        recipe = Recipe(epochs=epochs, batch=batch, lr=lr, seed=seed, precision=precision, gate_l1=gate_l1)
        recipe = recipe if distill is None else replace(recipe, distill=distill)
        recipe = recipe if start is None else continued(recipe)
        place = choose_device(device)
        chosen = Architecture(network, form, gate, placement=placement, gate_norm=gate_norm, split=split)
        size = build(chosen).image_size
        dataset = load_data(data, network_input(size))
        began = None if start is None else bundles.load(start)
        taught = None if teacher is None else bundles.load(teacher)
        if began is not None:
            dataset = dataset.in_order_of(began.labels)
        held = hold_out(dataset.train)
        architecture = replace(chosen, classes=len(dataset.classes))
        if began is not None and began.splits.get("digest") != held.digest:
            raise LcclError(f"{start} was trained on other images: those held out now may be among them")
        if taught is not None and taught.labels != dataset.classes:
            raise LcclError(f"{teacher} tells other classes apart: {', '.join(taught.labels)}")
        if taught is not None and taught.network.image_size != size:
            raise LcclError(f"{teacher} looks at images of another size: {taught.network.image_size} pixels a side")
        with training_progress() as report:
            trained, record = run(
                architecture, held, recipe, runs / out.name,
                device=place, compile_network=compile_network, report=report,
                start=None if began is None else began.network, teacher=None if taught is None else taught.network,
                statistics=None if began is None else (began.preprocessing.mean, began.preprocessing.std),
                teacher_statistics=None if taught is None else (taught.preprocessing.mean, taught.preprocessing.std),
            )  # fmt: skip
        if began is not None:
            record["earlier"] = {"digest": began.digest, "training": dict(began.training)}
        if taught is not None:
            record["teacher"] = {"digest": taught.digest, "accuracy": taught.table.exact.accuracy}
        made = first_bundle(trained.cpu(), architecture, dataset, held, record)
        _save_trained(made, out)


@app.command()
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

    with one_sentence_errors():
        use_threads(threads)
        recipe = attached(Recipe(epochs=epochs, batch=batch, lr=lr, seed=seed, precision=precision))
        place = choose_device(device)
        plain = read_plain(weights, network, centred=centred)
        architecture = attaching.gated(plain, gate)
        preprocessing = attaching.input_of(plain, _statistics(mean, std))
        order = attaching.read_labels(labels) if labels else None
        dataset = load_data(data, preprocessing or network_input(plain.network.image_size))
        attachment = attaching.prepare(plain, dataset, preprocessing, order)
        yardstick = attachment.plain_twin
        tested = f", {yardstick['test']['accuracy']:.4f} on test images" if yardstick["test"] else ""
        console.print(
            f"{weights}: accuracy {yardstick['accuracy']:.4f} on held-out images{tested}, plain {architecture.name}"
        )
        if attachment.doubtful:
            console.print(
                "[yellow]warning[/yellow] that is hardly better than guessing: "
                "--mean and --std, the order of --labels or the images' size are probably not its own"
            )
        with training_progress() as report:
            made = attaching.attach(
                attachment, architecture, recipe, runs / out.name,
                device=place, compile_network=compile_network, report=report,
            )  # fmt: skip
        _save_trained(made, out)


@app.command()
def calibrate(
    bundle: BundleFolder,
    data: Data,
    engine: Annotated[str, typer.Option(help="auto, cpu or reference.")] = "auto",
    search: Annotated[int, typer.Option(min=1, help="Images on which the costs of skipping are found.")] = 1000,
    threads: Threads = 0,
) -> None:
    """Choose and measure a bundle's operating points, and write its model card."""
    from lccl.bundle import format as bundles
    from lccl.bundle.model_card import write_card
    from lccl.bundle.self_test import record as record_self_test
    from lccl.calibration.choice import calibrate as run
    from lccl.compiler import compile_network
    from lccl.data import hold_out

    with one_sentence_errors():
        use_threads(threads)
        loaded = bundles.load(bundle)
        dataset = load_data(data, loaded.preprocessing).in_order_of(loaded.labels)
        with console.status("calibrating") as status:
            runner = compile_network(loaded, precision="fp32", engine=engine, threads=threads)
            done = run(loaded, runner, hold_out(dataset.train), status.update, search)
        done = replace(done, self_test=record_self_test(done))
        bundles.save(done, bundle)
        write_card(done, bundle)
        print_points(done)


@app.command()
def self_test(bundle: BundleFolder) -> None:
    """Record what the model answers to images drawn from a seed; a server checks it before it serves the model."""
    from lccl.bundle import format as bundles
    from lccl.bundle.self_test import record as record_self_test

    with one_sentence_errors():
        loaded = bundles.load(bundle)
        bundles.save(replace(loaded, self_test=record_self_test(loaded)), bundle)


@app.command()
def compare(
    bundle: BundleFolder,
    twin: Annotated[Path, typer.Argument(help="The folder of its plain twin's bundle.")],
) -> None:
    """Enter the plain twin's figures, trained and measured on the same images, into a bundle and its model card."""
    from lccl.bundle import format as bundles
    from lccl.bundle.model_card import write_card

    with one_sentence_errors():
        loaded = bundles.load(bundle)
        training = dict(loaded.training) | {"plain_twin": _twin_figures(twin, loaded)}
        done = replace(loaded, training=training)
        bundles.save(done, bundle)
        write_card(done, bundle)
        print_points(done)


@app.command()
def evaluate(
    bundle: BundleFolder,
    data: Data,
    part: Annotated[str, typer.Option(help="test, or the held-out measure.")] = "test",
    sparsity: Annotated[list[float] | None, typer.Option(help="Wanted skip ratio; may be given again.")] = None,
    exit_confidence: Annotated[
        list[float] | None, typer.Option(help="How sure every early exit must be; may be given again.")
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, cpu or reference.")] = "auto",
    threads: Threads = 0,
    out: Annotated[Path | None, typer.Option(help="Write the figures here as JSON.")] = None,
) -> None:
    """Compare what a bundle states with what it reaches, at every operating point or as the options ask."""
    from lccl.bundle import format as bundles
    from lccl.calibration.intervals import wilson
    from lccl.compiler import compile_network
    from lccl.data import hold_out
    from lccl.measurement import measure
    from lccl.request import QualityRequest, resolve

    with one_sentence_errors():
        use_threads(threads)
        loaded = bundles.load(bundle)
        dataset = load_data(data, loaded.preprocessing).in_order_of(loaded.labels)
        if part not in ("test", "measure"):
            raise LcclError(f"unknown part {part!r}: use test or measure")
        split = dataset.test if part == "test" else hold_out(dataset.train).measure
        if not len(split):
            raise LcclError(f"{data} has no test images: use --part measure")
        runner = compile_network(loaded, precision="fp32", engine=engine, threads=threads)
        shape = runner.shape
        requests = [QualityRequest(sparsity=value) for value in sparsity or []]
        requests += [QualityRequest(exit_confidence=value) for value in exit_confidence or []]
        requests = requests or [QualityRequest(operating_point=point.name) for point in loaded.table.points]
        table = new_table("point", "skip stated", "reached", "accuracy stated", "reached", "95 %", "gated MACs")
        rows: list[dict[str, Any]] = []
        with counting("images", len(requests) * len(split)) as advance:
            for quality in requests:
                point = resolve(loaded.table, quality).wanted
                found = measure(runner, split, point.setting, advance)
                low, high = wilson(int(found.right.sum()), len(split))
                skip_ratio, gated = found.skip_ratio(shape), found.gated_macs(shape)
                row = {
                    "point": point.name, "skip_stated": point.skip_ratio, "skip_reached": skip_ratio,
                    "accuracy_stated": point.accuracy, "accuracy_reached": found.accuracy,
                    "accuracy_interval": [low, high], "gated_macs": gated, "images": len(split),
                }  # fmt: skip
                rows.append(row)
                table.add_row(
                    point.name or "between", f"{point.skip_ratio:.3f}", f"{skip_ratio:.3f}",
                    f"{point.accuracy:.4f}", f"{found.accuracy:.4f}", f"{low:.4f} – {high:.4f}",
                    f"{gated / 1e6:.2f} M",
                )  # fmt: skip
        console.print(table)
        if out is not None:
            figures = {"bundle": bundle.name, "digest": loaded.digest, "part": part, "dense_macs": shape.dense}
            out.write_text(json.dumps(figures | {"rows": rows}, indent=1) + "\n", encoding="utf-8")


@app.command()
def bench(
    model: Annotated[str, typer.Argument(help="A bundle's folder, or a network by name with fresh weights.")],
    batch: Annotated[int, typer.Option(help="Images per run.")] = 1,
    threads: Threads = 0,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    skip: Annotated[
        list[float] | None, typer.Option(help="Wanted skip ratio; may be given again. Without it 0.35, 0.5 and 0.7.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often every contestant has its turn.")] = 15,
    images: Annotated[
        Path | None,
        typer.Option(help="A data set to take images from; without it 1/f noise, which hardly leaves by early exits."),
    ] = None,
    gate: Annotated[str | None, typer.Option(help="Fresh weights: shared, pointwise, grouped:G[:1x1].")] = None,
    form: Annotated[str | None, typer.Option(help="Fresh weights: post or pre activation.")] = None,
    baselines: Annotated[bool, typer.Option(help="Measure others' dense engines too.")] = True,
    layers: Annotated[bool, typer.Option(help="Time every step too.")] = True,
    out: Annotated[Path | None, typer.Option(help="Write the figures here as JSON.")] = None,
) -> None:
    """Measure what skipping gains on this CPU, beside the plain twin on this and on others' engines."""
    from lccl import provenance
    from lccl.bench.report import showing, tables
    from lccl.bench.run import Options, run
    from lccl.bench.workload import find_images, find_model, make_workload
    from lccl.engines.cpu.cores import usable_cores

    with one_sentence_errors():
        threads = threads or usable_cores()
        options = Options(threads, precision, rounds, baselines=baselines, layers=layers)
        use_threads(threads)
        found = find_model(model, form, gate)
        with console.status("choosing images and thresholds"):
            workload = make_workload(found, find_images(found, images, batch), batch, skip)
        with showing(console) as stages:
            made = run(workload, options, stages)
        for table in tables(made):
            console.print(table, "")
        if out is not None:
            words = [model, "--batch", batch, "--threads", threads, "--precision", precision, "--rounds", rounds]
            words += [word for setting in workload.settings[1:] for word in ("--skip", setting.name)]
            chosen = {"--images": images, "--gate": gate, "--form": form}
            words += [word for name, value in chosen.items() if value is not None for word in (name, value)]
            console.print(provenance.write(out, " ".join(map(str, ["lccl bench", *words])), made))


def _save_trained(made: Bundle, out: Path) -> None:
    from lccl.bundle import format as bundles
    from lccl.bundle.self_test import record as record_self_test

    bundles.save(replace(made, self_test=record_self_test(made)), out)
    console.print(f"{out}: accuracy {made.table.exact.accuracy:.4f} on held-out images, exact")


def _twin_figures(folder: Path, model: Bundle) -> dict[str, Any]:
    from lccl.bundle import format as bundles
    from lccl.train.export import twin_figures

    twin = bundles.load(folder)
    if twin.architecture != model.architecture.plain_twin:
        raise LcclError(f"{folder} is not the plain twin of this bundle")
    if twin.splits != model.splits:
        raise LcclError(f"{folder} was trained and measured on other images")
    return twin_figures(twin)


def _statistics(mean: str | None, std: str | None) -> Any:
    """Both as triples of numbers, or None where neither is given."""
    if mean is None and std is None:
        return None
    try:
        triples = [tuple(map(float, (text or "").split(","))) for text in (mean, std)]
    except ValueError:
        triples = []
    if [len(triple) for triple in triples] != [3, 3]:
        raise LcclError("give --mean and --std together, each as three numbers R,G,B")
    return tuple(triples)
