"""The answers of a job on disk, while it runs and after an interruption; they get their name when they are complete.

answers.csv.part        rows so far, in the order of the files
answers.csv.part.json   how far they count, and of which job they are; replaced after they are on the disk
answers.csv.part.lock   held by the process that writes
"""

import csv
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import IO, Any, Self

from filelock import FileLock, Timeout

from lccl.errors import DataError

FORMS = (".csv", ".parquet")
COMMIT_S = 1.0
ROWS = 10_000  # of a Parquet file that are in memory at once
NAMED = 5
INTERPOLATED = "interpolated"  # the operating point between two of the table


@dataclass(frozen=True, slots=True)
class Answer:
    """One row: what an image was answered, or why it was not.

    Attributes:
        file: relative to the folder, or inside the archive.
        probability: the label's.
        operating_point: what it was run at; ``interpolated`` between two of the table.
        sparsity: the skip ratio that is expected there.
        skip_ratio: the one that was reached.
        macs: in theory: gates, kept cells and the rest, as far as the image came.
        error: why there is no answer.

    """

    file: str
    label: str = ""
    probability: float | None = None
    operating_point: str = ""
    sparsity: float | None = None
    skip_ratio: float | None = None
    macs: int | None = None
    error: str = ""


COLUMNS = tuple(one.name for one in fields(Answer))


@dataclass(slots=True)
class Progress:
    """How far a job is.

    Attributes:
        rows: how many files have their row.
        size: bytes of these rows.
        points: answers by operating point.
        errors: how many files have none.
        first_errors: of the first files without an answer, why.

    """

    rows: int = 0
    size: int = 0
    points: Counter[str] = field(default_factory=Counter)
    errors: int = 0
    first_errors: list[str] = field(default_factory=list)

    def enter(self, answer: Answer) -> None:
        self.rows += 1
        if not answer.error:
            self.points[answer.operating_point] += 1
            return
        self.errors += 1
        if len(self.first_errors) < NAMED:
            self.first_errors.append(f"{answer.file} ({answer.error})")


class AnswerFile:
    """Takes answers in the order of the files.

    Attributes:
        progress: also that of earlier tries.

    """

    def __init__(self, target: Path, part: IO[str], progress: Progress, job: Mapping[str, Any]) -> None:
        self._target, self._part, self._job, self.progress = target, part, dict(job), progress
        self._writer, self._committed_at = csv.writer(part), time.monotonic()

    @classmethod
    @contextmanager
    def open(cls, target: Path, job: Mapping[str, Any]) -> Iterator[Self]:
        """Begin, or go on where the same job was interrupted; what was entered is kept, however this ends.

        Args:
            target: ends in ``.csv`` or ``.parquet``.
            job: what the answers follow from, as JSON has it.

        Raises:
            DataError: the target is there already, or another job's part, or it cannot be written.

        """
        check_target(target)
        try:
            with FileLock(_beside(target, ".part.lock"), timeout=0):
                progress = _resume(target, job)
                with _beside(target, ".part").open(
                    "a", encoding="utf-8", errors="backslashreplace", newline=""
                ) as part:
                    part.truncate(progress.size)
                    answers = cls(target, part, progress, job)
                    if not progress.size:
                        answers._writer.writerow(COLUMNS)
                    try:
                        yield answers
                    finally:
                        if not part.closed:
                            answers.commit()
        except Timeout:
            raise DataError(f"another process is writing {target}") from None
        except OSError as error:
            raise DataError(f"{target} cannot be written: {error.strerror or error}") from error

    def add(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            self._writer.writerow("" if value is None else value for value in astuple(answer))
            self.progress.enter(answer)
        if time.monotonic() - self._committed_at >= COMMIT_S:
            self.commit()

    def commit(self) -> None:
        """Bring what was added to the disk, then note that it counts."""
        self._part.flush()
        os.fsync(self._part.fileno())
        self.progress.size = os.fstat(self._part.fileno()).st_size
        state = _beside(self._target, ".part.json")
        fresh = state.with_name(f"{state.name}.new")
        known = {name: getattr(self.progress, name) for name in Progress.__slots__}
        fresh.write_text(json.dumps({"job": self._job, "progress": known}), encoding="utf-8")
        fresh.replace(state)
        self._committed_at = time.monotonic()

    def finish(self) -> None:
        """Give the complete answers their name."""
        self.commit()
        self._part.close()
        part = _beside(self._target, ".part")
        if self._target.suffix == ".parquet":
            fresh = _beside(self._target, ".new")
            _write_parquet(part, fresh)
            fresh.replace(self._target)
            part.unlink()
        else:
            part.replace(self._target)
        for end in (".part.json", ".part.lock"):
            _beside(self._target, end).unlink(missing_ok=True)


def check_target(target: Path) -> None:
    """Refuse a target before any work is done for it.

    Raises:
        DataError: it is there, has no known form, or no folder.

    """
    if target.suffix not in FORMS:
        raise DataError(f"{target} must end in .csv or .parquet")
    if target.exists():
        raise DataError(f"{target} is there already, and complete: remove it, or name another file")
    if not target.parent.is_dir():
        raise DataError(f"there is no folder {target.parent}")
    if target.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise DataError("Parquet needs the package pyarrow: pip install 'lccl[parquet]'") from None


def _beside(target: Path, end: str) -> Path:
    return target.with_name(target.name + end)


def _resume(target: Path, job: Mapping[str, Any]) -> Progress:
    part, state = _beside(target, ".part"), _beside(target, ".part.json")
    if not state.is_file():
        return Progress()
    try:
        known = json.loads(state.read_text(encoding="utf-8"))
        progress = Progress(**known["progress"])
        progress.points = Counter(progress.points)
        size = part.stat().st_size
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{state} cannot be used: remove it and {part} to begin anew") from error
    different = [name for name, value in job.items() if known["job"].get(name) != value]
    if different:
        raise DataError(
            f"{part} was begun with another {', '.join(different)}: give the same again, remove {state}, "
            "or name another file"
        )
    if size < progress.size:
        raise DataError(f"{part} has lost rows: remove {state} to begin anew")
    return progress


def _write_parquet(part: Path, target: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    kinds = {str: pyarrow.string(), float | None: pyarrow.float64(), int | None: pyarrow.int64()}
    schema = pyarrow.schema([(one.name, kinds[one.type]) for one in fields(Answer)])  # type: ignore[index]
    with (
        part.open(encoding="utf-8", newline="") as rows,
        parquet.ParquetWriter(target, schema) as writer,
    ):
        reader = csv.reader(rows)
        next(reader)
        while chunk := list(islice(reader, ROWS)):
            columns = [
                [None if text == "" and one.type is not str else kind(text) for text in column]
                for one, kind, column in zip(fields(Answer), _PARSERS, zip(*chunk, strict=True), strict=True)
            ]
            writer.write_table(pyarrow.table(columns, schema=schema))


_PARSERS: tuple[Any, ...] = (str, str, float, str, float, float, int, str)
