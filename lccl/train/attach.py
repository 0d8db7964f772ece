"""Attaching: a plain network trained elsewhere gets gates, and is trained on as an LCCL network."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lccl.bundle.format import Bundle
from lccl.bundle.training_record import TeacherRecord, TrainingRecord, TwinRecord
from lccl.data import Dataset, HeldOut, hold_out
from lccl.errors import DataError, InputError, LcclError
from lccl.networks import Architecture, build
from lccl.preprocessing import Preprocessing, Statistics
from lccl.train.export import first_bundle, network_input, twin_record
from lccl.train.loop import Report, channel_statistics, train
from lccl.train.plain_weights import PlainNetwork
from lccl.train.recipe import Recipe

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ORIGIN = "attached_to.json"


@dataclass(frozen=True, slots=True, eq=False)
class Attachment:
    """A plain network, measured, and the images it will be trained on further.

    Attributes:
        plain_twin: the plain network's figures, as the bundle records them.

    """

    plain: PlainNetwork
    dataset: Dataset
    held: HeldOut
    preprocessing: Preprocessing
    plain_twin: TwinRecord

    @property
    def doubtful(self) -> bool:
        """Whether the plain network is hardly better than guessing, so that it is probably read wrongly."""
        return self.plain_twin.accuracy < min(0.6, 2 / len(self.dataset.classes))


def input_of(plain: PlainNetwork, statistics: Statistics | None) -> Preprocessing | None:
    """How images reached the plain network, or None where only the data can tell: a bare network for small images.

    Raises:
        InputError: the mean and deviation are not for values in 0..1.

    """
    geometry = plain.bundle.preprocessing if plain.bundle else network_input(plain.network.image_size)
    if statistics is not None:
        mean, std = statistics
        if not all(0 <= value <= 1 for value in mean) or not all(value > 0 for value in std):
            raise InputError("a mean lies in 0..1 and a deviation above 0: divide those for values in 0..255 by 255")
        return replace(geometry, mean=mean, std=std)
    if plain.bundle is None and plain.network.image_size < 64:
        return None
    return geometry if plain.bundle else replace(geometry, mean=IMAGENET[0], std=IMAGENET[1])


def read_labels(file: Path) -> tuple[str, ...]:
    """Class names in the order of the network's outputs, one per line.

    Raises:
        DataError: the file cannot be read.

    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as text, one label per line: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def prepare(
    plain: PlainNetwork,
    dataset: Dataset,
    preprocessing: Preprocessing,
    labels: tuple[str, ...] | None,
    report: Report = lambda *_: None,
    *,
    own_statistics: bool = False,
) -> Attachment:
    """Bring the data's classes into the order of the network's outputs, and measure the plain network.

    Args:
        preprocessing: what ``dataset`` was read with.
        labels: the classes in the order of the outputs; without it the bundle's, or the data's own order.
        own_statistics: whether only the data can tell the mean and deviation (:func:`input_of`).
        report: see :func:`lccl.train.export.first_bundle`.

    Raises:
        DataError: the classes are not those of the network, or there are too few images.

    """
    classes = plain.architecture.classes
    for names, whose in ((labels or (), "the labels"), (dataset.classes, "the data")):
        if names and len(names) != classes:
            raise DataError(f"{whose} have {len(names)} classes and the network {classes}: they must be the same")
    order = labels or (plain.bundle.labels if plain.bundle else dataset.classes)
    dataset = dataset.in_order_of(order)
    held = hold_out(dataset.train, by=plain.bundle.held_out_by if plain.bundle else "files")
    if own_statistics:
        mean, std = channel_statistics(held.train)
        preprocessing = replace(preprocessing, mean=mean, std=std)
    measured = first_bundle(plain.network, plain.architecture, dataset, held, TrainingRecord(), preprocessing, report)
    twin = replace(
        twin_record(replace(measured, digest=plain.digest)),
        attached_to=plain.source,
        may_know_the_images=plain.bundle is None or plain.bundle.splits.get("digest") != held.digest,
        recipe=plain.bundle.training.recipe if plain.bundle else None,
    )
    return Attachment(plain, dataset, held, preprocessing, twin)


def gated(plain: PlainNetwork, gate: str) -> Architecture:
    """The architecture of the plain network with gates.

    Raises:
        LcclError: there is no such gate, or none was asked for.

    """
    if gate == "none":
        raise LcclError("attaching means gates: use shared, pointwise or grouped:G, not none")
    architecture = replace(plain.architecture, gate=gate)
    build(architecture)  # refuses groups that do not divide its channels
    return architecture


def attach(
    attachment: Attachment,
    architecture: Architecture,
    recipe: Recipe,
    folder: Path,
    *,
    device: torch.device,
    compile_network: bool,
    report: Report,
    workers: int | None = None,
) -> Bundle:
    """Train the :func:`gated` network from the plain one's weights and return its bundle, the exact point alone.

    The plain network is its teacher, too, at the size it was trained for. Training continues where ``folder`` holds a
    checkpoint.

    Raises:
        LcclError: the checkpoint there began from another network, or what training raises.

    """
    plain, held, preprocessing = attachment.plain, attachment.held, attachment.preprocessing
    _note_origin(folder, {"digest": plain.digest, "labels": list(attachment.dataset.classes)})
    network, record = train(
        architecture, held, recipe, folder,
        device=device, compile_network=compile_network, report=report, workers=workers,
        start=plain.network, teacher=plain.network, statistics=preprocessing.statistics,
        labels=attachment.dataset.classes, fit=preprocessing.fit,
        teacher_input=preprocessing.at(plain.bundle.preprocessing.size if plain.bundle else plain.network.image_size),
    )  # fmt: skip
    twin = attachment.plain_twin
    assert record.data is not None
    record = replace(record, data=replace(record.data, skipped=attachment.dataset.skipped))
    record = replace(record, plain_twin=twin, teacher=TeacherRecord(twin.digest, twin.accuracy))
    return first_bundle(network.cpu(), architecture, attachment.dataset, held, record, preprocessing, report)


def _note_origin(folder: Path, origin: dict[str, Any]) -> None:
    """Keep beside the checkpoint what it began from, so that it is not continued from anything else."""
    file = folder / ORIGIN
    if not (folder / "checkpoint.safetensors").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
    elif not file.is_file() or json.loads(file.read_text(encoding="utf-8")) != origin:
        raise LcclError(
            f"{folder} holds a checkpoint that began from another network: choose another folder or remove it"
        )
