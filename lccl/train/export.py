"""From a finished run to a bundle that offers the exact point alone; calibration adds the others."""

from dataclasses import replace

from lccl.bundle.format import Bundle
from lccl.bundle.training_record import AccuracyRecord, TrainingRecord, TwinRecord
from lccl.calibration.table import build_table
from lccl.compiler import compile_network
from lccl.data import Dataset, HeldOut
from lccl.measurement import measure
from lccl.networks import Architecture, ResNet
from lccl.preprocessing import Preprocessing


def first_bundle(
    network: ResNet,
    architecture: Architecture,
    dataset: Dataset,
    held: HeldOut,
    record: TrainingRecord,
    preprocessing: Preprocessing | None = None,
) -> Bundle:
    """Measure the exact network on both held-out parts, neither of which trained it, and on any test images.

    Without ``preprocessing`` it is that of a network trained here, with the mean and deviation in its record.
    """
    if preprocessing is None:
        assert record.data is not None
        preprocessing = replace(network_input(network.image_size), mean=record.data.mean, std=record.data.std)
    engine = compile_network(network, precision="fp32", preprocessing=preprocessing)
    table, _ = build_table(engine, held, {})
    if len(dataset.test):
        accuracy = measure(engine, dataset.test, table.exact.setting).accuracy
        record = replace(record, test=AccuracyRecord(len(dataset.test), accuracy))
    return Bundle(
        architecture=architecture,
        network=network,
        labels=dataset.classes,
        preprocessing=preprocessing,
        table=table,
        splits={"choose": len(held.choose), "measure": len(held.measure), "digest": held.digest},
        training=record,
    )


def twin_record(twin: Bundle) -> TwinRecord:
    """What a bundle records of the plain network it is compared with."""
    exact, training = twin.table.exact, twin.training
    interval = (exact.accuracy_interval.low, exact.accuracy_interval.high)
    return TwinRecord(twin.digest, exact.accuracy, interval, training.test, training.recipe, training.total_epochs)


def network_input(size: int) -> Preprocessing:
    """How images reach a network of that input size: CIFAR's whole, larger ones without a margin of an eighth."""
    return Preprocessing(size, size if size < 64 else size * 8 // 7, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
