"""What a bundle records of its training, typed: read from and written to the JSON object ``training``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from lccl.json_values import field_names, read_fields

RENAMED = {"may_know_the_pictures": "may_know_the_images"}  # keys that older bundles have


@dataclass(frozen=True, slots=True)
class RecordPart:
    """A JSON object with known fields; one that has its default is not written.

    Attributes:
        more: what the object holds beside them, kept as it is.

    """

    more: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read what :meth:`to_json` wrote, now or in an earlier version.

        Raises:
            TypeError: a field is missing or of another type.

        """
        if not isinstance(value, Mapping):
            raise TypeError(f"{value!r:.40} is no object")
        entries = {RENAMED.get(str(name), str(name)): entry for name, entry in value.items()}
        more = {name: entries.pop(name) for name in entries.keys() - field_names(cls)}
        return read_fields(cls, entries | {"more": more})

    def to_json(self) -> dict[str, Any]:
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "more"}
        given = {each.name: each.default for each in fields(self)}
        return {name: _plain(value) for name, value in values.items() if value != given[name]} | dict(self.more)


@dataclass(frozen=True, slots=True)
class DataRecord(RecordPart):
    """How many images were trained on and held out, and their mean and deviation per channel, for values in 0..1.

    Attributes:
        size, fit: how they reached the network; see :class:`lccl.preprocessing.Preprocessing`.
        skipped: files that could not be used, each with the reason.

    """

    train: int
    choose: int
    measure: int
    held_out_digest: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int | None = None
    fit: str | None = None
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AccuracyRecord(RecordPart):
    """Accuracy on a number of test images."""

    images: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class TeacherRecord(RecordPart):
    """The network whose answers were learned, and its accuracy on the held-out images."""

    digest: str
    accuracy: float


@dataclass(frozen=True, slots=True)
class TwinRecord(RecordPart):
    """The plain network that the bundle's is compared with.

    Attributes:
        recipe: as :class:`lccl.train.recipe.Recipe` has it.
        epochs: those of all its runs.
        attached_to: the file or bundle, where gates were attached to a network trained elsewhere.
        may_know_the_images: whether the images held out here may be among those that it was trained on.

    """

    digest: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    test: AccuracyRecord | None = None
    recipe: Mapping[str, Any] | None = None
    epochs: int | None = None
    attached_to: str | None = None
    may_know_the_images: bool | None = None


@dataclass(frozen=True, slots=True)
class ReliabilityBin(RecordPart):
    """Answers whose confidences lie in one of equal parts of 0..1: their number, mean confidence and accuracy."""

    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class AnswerRecord(RecordPart):
    """What one answer of a network is worth if all images take it.

    Attributes:
        temperature: by which its logits are divided.
        calibration_error_before: expected calibration error at temperature 1, and ``calibration_error`` at its own.
        risk_coverage: (coverage, risk) pairs.
        after: the block that its SideNet reads, and ``macs`` what that takes; None for the network's own answer.

    """

    temperature: float
    accuracy: float
    calibration_error_before: float
    calibration_error: float
    reliability: tuple[ReliabilityBin, ...]
    risk_coverage: tuple[tuple[float, float], ...]
    after: int | None = None
    macs: int | None = None

    def name(self, number: int) -> str:
        """What the model card and diagrams call it; ``number`` is the exit's."""
        return "the network's end" if self.after is None else f"exit {number}, after block {self.after}"


@dataclass(frozen=True, slots=True)
class SideNetsRecord(RecordPart):
    """How SideNets were fitted, on how many images, and what each answer is worth on ``measured_on`` others."""

    recipe: Mapping[str, Any]
    images: int
    seconds: float
    measured_on: int
    exits: tuple[AnswerRecord, ...]
    end: AnswerRecord

    @property
    def answers(self) -> tuple[AnswerRecord, ...]:
        """Those of the exits, and last the network's own."""
        return *self.exits, self.end


@dataclass(frozen=True, slots=True)
class EarlierRecord(RecordPart):
    """The bundle that training began from."""

    digest: str
    training: TrainingRecord


@dataclass(frozen=True, slots=True)
class TrainingRecord(RecordPart):
    """One training run, and what was measured beside it. A network that was never trained has none of it.

    Attributes:
        architecture, recipe: as they were written then; fields added since are missing.
        machine: ``python``, ``torch``, ``device`` and ``threads``.
        epochs: the figures of each epoch.
        began: fingerprints of the network that training began from, of the teacher and of the class names.
        test: accuracy at exact.

    """

    architecture: Mapping[str, Any] | None = None
    recipe: Mapping[str, Any] | None = None
    data: DataRecord | None = None
    machine: Mapping[str, Any] | None = None
    epochs: tuple[Mapping[str, float], ...] = ()
    began: Mapping[str, str | None] | None = None
    test: AccuracyRecord | None = None
    teacher: TeacherRecord | None = None
    plain_twin: TwinRecord | None = None
    sidenets: SideNetsRecord | None = None
    earlier: EarlierRecord | None = None

    @property
    def total_epochs(self) -> int:
        """Those of the runs that this one began from included."""
        return len(self.epochs) + (self.earlier.training.total_epochs if self.earlier else 0)


def _plain(value: Any) -> Any:
    if isinstance(value, RecordPart):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return dict(value) if isinstance(value, Mapping) else value
