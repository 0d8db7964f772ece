"""Trains rows and their plain twins at one budget, tests each once, and writes a result file for each."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.paper.rows import DATA, RECIPE, Budget, Run, pack, with_twins
from benchmarks.rivals.kinds import RIVALS
from lccl import provenance
from lccl.bundle.training_record import TrainingRecord
from lccl.compiler import choose_device, compile_network
from lccl.data import HeldOut, Split, load_dataset
from lccl.errors import DataError, LcclError
from lccl.measurement import Measurement, exact_setting, measure
from lccl.networks import Architecture, ResNet
from lccl.networks.inputs import normalise
from lccl.networks.lowering import network_shape
from lccl.plan.geometry import NetworkShape
from lccl.preprocessing import Statistics
from lccl.train.export import network_input
from lccl.train.loop import train
from lccl.train.recipe import Recipe

WATCHED = 250


@dataclass(frozen=True, slots=True)
class Options:
    """How rows are trained.

    Attributes:
        data: a data set, as ``load_dataset`` reads it, with test images.
        images: how many of its training images to take, None for all.
        again: train rows that have a result too.
        results: folder of the result files.
        runs: folder of the checkpoints, from which an interrupted row goes on.

    """

    data: Path
    epochs: int
    images: int | None
    seeds: tuple[int, ...]
    device: str
    compile_network: bool
    again: bool
    results: Path
    runs: Path

    @property
    def budget(self) -> Budget:
        return Budget(self.data.name.split(".")[0], self.epochs, self.images)


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Training images, and test images with their digest."""

    train: HeldOut
    test: Split
    test_digest: str


def train_rows(runs: Iterable[Run], options: Options) -> None:
    """Train what has no result yet, seed by seed, and print a line for each epoch and result.

    Raises:
        DataError: the data set is not the one that the rows need, has no test images, or too few to train on.
        LcclError: a row's loss is no longer finite, or its checkpoint is of another recipe; the other rows are trained.

    """
    wanted = [(run, seed) for seed in options.seeds for run in with_twins(runs)]
    files = {(run.name, seed): f"{options.budget.name}/{run.name}-s{seed}" for run, seed in wanted}
    missing = [
        (run, seed)
        for run, seed in wanted
        if options.again or not (options.results / f"{files[run.name, seed]}.json").is_file()
    ]
    if not missing:
        print(f"every result is there, in {options.results / options.budget.name}: --again trains once more")
        return
    images = read_images({run.data for run, _ in missing}, options)
    failed = []
    for run, seed in missing:
        file = files[run.name, seed]
        if options.again:
            shutil.rmtree(options.runs / file, ignore_errors=True)
        try:
            figures = train_row(run, seed, images, options, options.runs / file)
        except LcclError as error:
            failed.append(f"{run.name}, seed {seed}: {error}")
            print(failed[-1], flush=True)
        else:
            print(provenance.write(options.results / f"{file}.json", figures), flush=True)
    if failed:
        raise LcclError(f"{len(failed)} of {len(missing)} rows failed: {'; '.join(failed)}")


def read_images(names: set[str], options: Options) -> Images:
    """The images for rows that need the data sets of these names.

    All training images train: nothing is chosen here, so nothing is held out. Progress is watched on a few of them.

    Raises:
        DataError: the data set is not that one, has no test images, or too few to train on.

    """
    if len(names) > 1:
        raise DataError(f"these rows need different data sets ({', '.join(sorted(names))}): train them apart")
    wanted = DATA[names.pop()]
    found = load_dataset(options.data, network_input(wanted.size))
    if len(found.classes) != wanted.classes:
        raise DataError(f"{options.data} has {len(found.classes)} classes: these rows need {wanted.title}")
    if not len(found.test):
        raise DataError(f"{options.data} has no test images: give a data set that has")
    count = len(found.train) if options.images is None else options.images
    if not RECIPE["batch"] <= count <= len(found.train):
        raise DataError(f"cannot train on {count} of {len(found.train)} images: at least {RECIPE['batch']} are needed")
    # Archives are in the order of the classes; the same images serve every row and seed.
    order = np.random.default_rng(0).permutation(len(found.train))[:count]
    chosen = found.train.subset(np.sort(order))
    watched = found.train.subset(order[:WATCHED])
    nothing = chosen.first(0)
    return Images(HeldOut(chosen, watched, nothing, digest(chosen)), found.test, digest(found.test))


def train_row(run: Run, seed: int, images: Images, options: Options, folder: Path) -> dict[str, Any]:
    """Train one network and return the figures of its result file; goes on where ``folder`` holds a checkpoint."""
    network, record = _trained(run, seed, images, options, folder)
    assert record.machine is not None
    return {
        "run": run.name,
        "architecture": record.architecture,
        "recipe": record.recipe,
        "budget": asdict(replace(options.budget, images=len(images.train.train))),
        "train_digest": images.train.digest,
        **_tested(run, network, record, images, options.device),
        "dense_macs": plain_macs(run),
        "trained": dict(record.machine) | {"seconds": round(sum(epoch["seconds"] for epoch in record.epochs))},
        "last_epoch": dict(record.epochs[-1]),
    }


def _trained(run: Run, seed: int, images: Images, options: Options, folder: Path) -> tuple[ResNet, TrainingRecord]:
    """The network after its last epoch; a rival that retrains begins from its twin, which is trained if need be."""
    rival = RIVALS[run.rival] if run.rival else None
    retrains = rival is not None and rival.retrains
    start = (
        _trained(run.twin, seed, images, options, folder.with_name(f"{run.twin.name}-s{seed}"))[0] if retrains else None
    )
    epochs = max(1, options.epochs // 2) if retrains else options.epochs

    def report(kind: str, done: int, of: int, figures: dict[str, float]) -> None:
        if kind == "epoch":
            shown = f"loss {figures['loss']:.3f}, {figures['seconds']:.0f} s"
            print(f"{run.name}, seed {seed}: epoch {done}/{of}, {shown}", flush=True)

    return train(
        Architecture(**run.network, classes=DATA[run.data].classes), images.train,
        Recipe(**{**RECIPE, **run.recipe}, epochs=epochs, seed=seed), folder,
        device=choose_device(options.device), compile_network=options.compile_network, report=report,
        start=start, change=rival.change if rival else None,
    )  # fmt: skip


def _tested(run: Run, network: ResNet, record: TrainingRecord, images: Images, device: str) -> dict[str, Any]:
    """Error, zeros and MACs on the test images."""
    if run.rival:
        assert record.data is not None
        right = right_answers(network, images.test, (record.data.mean, record.data.std))
        zeros, layer_zeros, macs = 0.0, [], RIVALS[run.rival].operations(network)
    else:
        found, shape = on_test_images(network, record, images.test, device)
        right, zeros, macs = found.right, found.skip_ratio(shape), found.gated_macs(shape)
        layer_zeros = [round(float(share), 4) for share in shape.layer_skip_ratios(found.kept).mean(0)]
    return {
        "test": {"images": len(right), "digest": images.test_digest, "right": pack(right)},
        "error": round(1 - float(right.mean()), 6),
        "zeros": round(zeros, 6),
        "layer_zeros": layer_zeros,
        "gated_macs": round(macs, 1),
    }


def right_answers(network: ResNet, images: Split, statistics: Statistics) -> NDArray[np.bool_]:
    """Which images a network of any kind classifies rightly: bool [N]."""
    device = network.classifier.weight.device
    with torch.no_grad():
        answers = [
            network(normalise(pixels, statistics, device)).logits.argmax(1).cpu().numpy() == labels
            for pixels, labels in images.batches(RECIPE["batch"])
        ]
    return np.concatenate(answers)


def plain_macs(run: Run) -> int:
    """MACs of the network that a run is compared with."""
    return network_shape(Architecture(**run.twin.network, classes=DATA[run.data].classes), DATA[run.data].size).dense


def on_test_images(
    network: ResNet, record: TrainingRecord, images: Split, device: str
) -> tuple[Measurement, NetworkShape]:
    """Run the test images at threshold 0, with the normalisation that the network was trained with."""
    assert record.data is not None
    preprocessing = replace(network_input(network.image_size), mean=record.data.mean, std=record.data.std)
    engine = compile_network(network.cpu(), device, "fp32", preprocessing=preprocessing)
    return measure(engine, images, exact_setting(engine)), engine.shape


def digest(split: Split) -> str:
    """SHA-256 of images and labels, in their order."""
    return hashlib.sha256(split.loaded().images[:].tobytes() + split.labels.tobytes()).hexdigest()
