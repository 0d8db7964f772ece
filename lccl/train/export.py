"""From a finished run to a bundle that offers the exact point alone; calibration adds the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lccl.bundle.format import Bundle
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
    record: Mapping[str, Any],
    preprocessing: Preprocessing | None = None,
) -> Bundle:
    """Measure the exact network on both held-out parts, which it chose nothing on, and on any test images.

    Without ``preprocessing`` it is that of a network trained here, with the mean and deviation in its record.
    """
    if preprocessing is None:
        red, green, blue = record["data"]["mean"]
        deviation = record["data"]["std"]
        preprocessing = replace(
            network_input(network.image_size), mean=(red, green, blue), std=(deviation[0], deviation[1], deviation[2])
        )
    engine = compile_network(network, precision="fp32", preprocessing=preprocessing)
    table, _ = build_table(engine, held, {})
    test = {}
    if len(dataset.test):
        accuracy = measure(engine, dataset.test, table.exact.setting).accuracy
        test = {"test": {"images": len(dataset.test), "accuracy": accuracy}}
    return Bundle(
        architecture=architecture,
        network=network,
        labels=dataset.classes,
        preprocessing=preprocessing,
        table=table,
        splits={"choose": len(held.choose), "measure": len(held.measure), "digest": held.digest},
        training=dict(record) | test,
    )


def twin_figures(twin: Bundle) -> dict[str, Any]:
    """What a bundle notes of the plain network it is compared with."""
    exact = twin.table.exact
    return {
        "digest": twin.digest,
        "accuracy": exact.accuracy,
        "accuracy_interval": [exact.accuracy_interval.low, exact.accuracy_interval.high],
        "test": twin.training.get("test"),
        "recipe": twin.training.get("recipe"),
        "epochs": twin.epochs,
    }


def network_input(size: int) -> Preprocessing:
    """How images reach a network of that input size: CIFAR's whole, larger ones without a margin of an eighth."""
    return Preprocessing(size, size if size < 64 else size * 8 // 7, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
