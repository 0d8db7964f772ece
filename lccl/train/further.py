"""Training from images to a bundle, from fresh weights or further from a bundle, perhaps with a teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lccl.bundle.format import Bundle, load
from lccl.bundle.training_record import EarlierRecord, TeacherRecord
from lccl.data import Dataset, hold_out
from lccl.errors import LcclError, require
from lccl.networks import Architecture, build
from lccl.preprocessing import Preprocessing
from lccl.train.export import first_bundle, network_input
from lccl.train.loop import Report, train
from lccl.train.recipe import Recipe


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """What a run begins from, where it has any.

    Attributes:
        preprocessing: with which images are read.
        start: a bundle of the same network, which is trained further.
        teacher: a bundle whose answers are learned too.

    """

    preprocessing: Preprocessing
    start: Bundle | None = None
    teacher: Bundle | None = None

    @classmethod
    def load(cls, architecture: Architecture, start: Path | None, teacher: Path | None) -> Origin:
        """Read both bundles.

        Raises:
            ArchitectureError: there is no such network.
            BundleError: a bundle is broken.
            LcclError: the teacher reads images of another size.

        """
        size = build(architecture).image_size
        bundles = [None if folder is None else load(folder) for folder in (start, teacher)]
        if bundles[1] is not None and bundles[1].network.image_size != size:
            raise LcclError(f"{teacher} looks at images of another size: {bundles[1].network.image_size} pixels a side")
        return cls(network_input(size), *bundles)


def train_bundle(
    architecture: Architecture,
    dataset: Dataset,
    recipe: Recipe,
    folder: Path,
    origin: Origin,
    *,
    device: torch.device,
    compile_network: bool,
    report: Report,
) -> Bundle:
    """Train on a data set and return the bundle, the exact point alone; see :func:`lccl.train.loop.train`.

    Raises:
        DataError: the classes are not those of the bundle to begin from.
        LcclError: what training raises, or the data is not that of the bundles.

    """
    start, teacher = origin.start, origin.teacher
    if start is not None:
        dataset = dataset.in_order_of(start.labels)
    held = hold_out(dataset.train)
    architecture = replace(architecture, classes=len(dataset.classes))
    require(
        LcclError,
        (
            start is None or start.splits.get("digest") == held.digest,
            "the network to begin from was trained on other images: those held out now may be among them",
        ),
        (
            teacher is None or teacher.labels == dataset.classes,
            f"the teacher has other classes: {', '.join(teacher.labels if teacher else ())}",
        ),
    )
    network, record = train(
        architecture, held, recipe, folder,
        device=device, compile_network=compile_network, report=report,
        start=start.network if start else None, teacher=teacher.network if teacher else None,
        statistics=start.preprocessing.statistics if start else None,
        teacher_statistics=teacher.preprocessing.statistics if teacher else None,
    )  # fmt: skip
    record = replace(
        record,
        earlier=EarlierRecord(start.digest, start.training) if start else None,
        teacher=TeacherRecord(teacher.digest, teacher.table.exact.accuracy) if teacher else None,
    )
    return first_bundle(network.cpu(), architecture, dataset, held, record)
