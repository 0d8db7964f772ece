"""From images to a bundle that offers the exact point alone; calibration adds the others."""

from dataclasses import replace
from pathlib import Path

import torch

from lccl.bundle.format import Bundle
from lccl.bundle.training_record import AccuracyRecord, EarlierRecord, TeacherRecord, TrainingRecord, TwinRecord
from lccl.calibration.table import build_table
from lccl.compiler import compile_network
from lccl.data import Dataset, HeldOut, hold_out
from lccl.errors import DataError, LcclError, require
from lccl.measurement import measure
from lccl.networks import Architecture, ResNet, build
from lccl.preprocessing import Preprocessing
from lccl.train.loop import Report, train
from lccl.train.recipe import Recipe
from lccl.train.tuning import curve_of, same_network, with_classes

SMALL = 64


def train_bundle(
    architecture: Architecture,
    dataset: Dataset,
    recipe: Recipe,
    folder: Path,
    *,
    device: torch.device,
    compile_network: bool,
    report: Report,
    start: Bundle | None = None,
    teacher: Bundle | None = None,
    preprocessing: Preprocessing | None = None,
    workers: int | None = None,
) -> Bundle:
    """Train on a data set and return the bundle, the exact point alone; see :func:`lccl.train.loop.train`.

    Args:
        recipe: for other classes than the start's one that :func:`lccl.train.recipe.tuned` gave.
        start: a bundle of the same network, which is trained further; with other classes its classifier is replaced.
        teacher: a bundle whose answers are learned too.
        preprocessing: what ``dataset`` was read with; without it that of a network trained here. Its mean and deviation
            count where there is a start; else the data's own do.

    Raises:
        DataError: there are fewer than ten images.
        LcclError: what training raises, or the data is not that of the bundles.

    """
    tuning = start is not None and has_other_classes(start, dataset)
    if start is not None and not tuning:
        dataset = dataset.in_order_of(start.labels)
    held = hold_out(dataset.train, by=start.held_out_by if start is not None and not tuning else "files")
    architecture = replace(architecture, classes=len(dataset.classes))
    if not (len(held.choose) and len(held.measure)):
        raise DataError(
            f"{len(dataset.train)} images are too few: a tenth of them chooses thresholds, another measures"
        )
    _check_bundles(architecture, dataset, None if tuning else held, start, teacher)
    begun = start.network if start else None
    if start is not None and tuning:
        begun = with_classes(start, architecture.classes, recipe.seed)
    network, record = train(
        architecture, held, recipe, folder,
        device=device, compile_network=compile_network, report=report, workers=workers,
        start=begun, teacher=teacher.network if teacher else None,
        statistics=start.preprocessing.statistics if start else None,
        teacher_input=teacher.preprocessing if teacher else None,
        follow=curve_of(start, preprocessing or start.preprocessing, held.choose) if start and tuning else None,
        labels=dataset.classes, fit=preprocessing.fit if preprocessing else None,
    )  # fmt: skip
    assert record.data is not None
    preprocessing = replace(
        preprocessing or network_input(network.image_size), mean=record.data.mean, std=record.data.std
    )
    record = replace(
        record,
        data=replace(record.data, skipped=dataset.skipped),
        earlier=EarlierRecord(start.digest, start.training) if start else None,
        teacher=TeacherRecord(teacher.digest, teacher.table.exact.accuracy) if teacher else None,
    )
    return first_bundle(network.cpu(), architecture, dataset, held, record, preprocessing, report)


def _check_bundles(
    architecture: Architecture, dataset: Dataset, held: HeldOut | None, start: Bundle | None, teacher: Bundle | None
) -> None:
    """Refuse bundles that training cannot begin from or learn from; ``held`` is None where it means fine-tuning."""
    size = build(architecture).image_size
    require(
        LcclError,
        (
            start is None or held is None or start.splits.get("digest") == held.digest,
            "the network to begin from was trained on other images: those held out now may be among them",
        ),
        (
            start is None or same_network(architecture, start),
            "training cannot begin from the weights of another network",
        ),
        (
            teacher is None or (teacher.network.image_size < SMALL) == (size < SMALL),
            "the teacher looks at images of another size: "
            f"{teacher.network.image_size if teacher else 0} pixels a side",
        ),
        (
            teacher is None or teacher.labels == dataset.classes,
            f"the teacher has other classes: {', '.join(teacher.labels if teacher else ())}",
        ),
    )


def has_other_classes(start: Bundle, dataset: Dataset) -> bool:
    """Whether training on a data set means fine-tuning: it has other classes than the bundle."""
    return set(start.labels) != set(dataset.classes)


def first_bundle(
    network: ResNet,
    architecture: Architecture,
    dataset: Dataset,
    held: HeldOut,
    record: TrainingRecord,
    preprocessing: Preprocessing | None = None,
    report: Report = lambda *_: None,
) -> Bundle:
    """Measure the exact network on both held-out parts, neither of which trained it, and on any test images.

    Its convolutions' and classifier's weights are rounded to half precision first, in which bundles then store them.
    Without ``preprocessing`` it is that of a network trained here, with the mean and deviation in its record.
    ``report`` is called as ``report("measure", done, of, {})``, in images.
    """
    done, of = 0, len(held.measure) + len(held.choose) + len(dataset.test)

    def measured(images: int) -> None:
        nonlocal done
        done += images
        report("measure", done, of, {})

    if preprocessing is None:
        assert record.data is not None
        preprocessing = replace(network_input(network.image_size), mean=record.data.mean, std=record.data.std)
    _round_weights(network)
    engine = compile_network(network, precision="fp32", preprocessing=preprocessing)
    table, _ = build_table(engine, held, {}, measured)
    if len(dataset.test):
        accuracy = measure(engine, dataset.test, table.exact.setting, measured).accuracy
        record = replace(record, test=AccuracyRecord(len(dataset.test), accuracy))
    return Bundle(
        architecture=architecture,
        network=network,
        labels=dataset.classes,
        preprocessing=preprocessing,
        table=table,
        splits={"choose": len(held.choose), "measure": len(held.measure), "digest": held.digest, "by": held.by},
        training=record,
    )


def _round_weights(network: ResNet) -> None:
    """Round what has two dimensions or more to the nearest half-precision number; what none is near stays."""
    with torch.no_grad():
        for weight in network.parameters():
            rounded = weight.half().float()
            if weight.dim() > 1 and bool(rounded.isfinite().all()):
                weight.copy_(rounded)


def twin_record(twin: Bundle) -> TwinRecord:
    """What a bundle records of the plain network it is compared with."""
    exact, training = twin.table.exact, twin.training
    interval = (exact.accuracy_interval.low, exact.accuracy_interval.high)
    return TwinRecord(twin.digest, exact.accuracy, interval, training.test, training.recipe, training.total_epochs)


def network_input(size: int, fit: str = "crop") -> Preprocessing:
    """How images reach a network of that input size.

    Small ones and stretched ones whole, larger ones without a margin of an eighth.
    """
    resize = size if size < SMALL or fit == "stretch" else size * 8 // 7
    return Preprocessing(size, resize, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), fit, scaled=True)
