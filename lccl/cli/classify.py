"""``lccl classify``: the answers of a bundle to all images of a folder, an archive or a store."""

import math
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

import lccl
from lccl.cli.terminal import Threads, console, counting, print_table, use_threads, working
from lccl.errors import DataError, LcclError, QualityError

if TYPE_CHECKING:
    from lccl.classify.answers import Progress
    from lccl.operating_points import OperatingPoint, OperatingPointTable

SHARE = 0.95  # of the time, which is planned with
DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def classify(
    images: Annotated[
        str,
        typer.Argument(
            help="A folder of images, with all folders in it, a .tar of one, or a store's URL such as s3://bucket/prefix.",
            metavar="<path or url>",
        ),
    ],
    bundle: Annotated[Path, typer.Option(help="A bundle's folder.")],
    out: Annotated[Path, typer.Option(help="Where the answers go: a .csv or .parquet file.")],
    sparsity: Annotated[float | None, typer.Option(help="Wanted skip ratio.")] = None,
    operating_point: Annotated[str | None, typer.Option(help="A point's name.")] = None,
    max_accuracy_drop: Annotated[
        float | None, typer.Option(help="Percentage points that may be lost; alone: as sparse as that allows.")
    ] = None,
    finish_in: Annotated[
        str | None, typer.Option(help="As exact as can be done in this time, such as 90s, 20m or 1h30m.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, int8, fp16 or bf16.")] = "auto",
    engine: Annotated[str, typer.Option(help="auto, cpu, cuda or reference.")] = "auto",
    threads: Threads = 0,
) -> None:
    """Classify all images of a folder, archive or store; the same command goes on after an interruption."""
    from lccl.classify.answers import AnswerFile, check_target
    from lccl.classify.job import classify as run
    from lccl.classify.pace import Pace
    from lccl.data.files import list_files
    from lccl.data.stores import is_stored, list_stored

    began = time.monotonic()
    seconds = None if finish_in is None else _seconds(finish_in)
    request = lccl.QualityRequest(
        sparsity=sparsity, operating_point=operating_point, max_accuracy_drop=max_accuracy_drop
    )
    check_target(out)
    if not is_stored(images) and not Path(images).exists():
        raise DataError(f"there is no folder or archive {images}")
    use_threads(threads)
    loaded = lccl.load(bundle)
    runner = lccl.compile(loaded, device, precision, engine, threads=threads)
    loaded = loaded.in_precision(runner.precision)
    pace = Pace(_points(loaded.table, request, seconds), began + SHARE * (math.inf if seconds is None else seconds))
    with working(f"listing {images}"):
        files = list_stored(images) if is_stored(images) else list_files(Path(images))
    if not len(files):
        raise DataError(f"there are no images in {images}")
    job = {
        "images": files.stamp, "bundle": loaded.digest, "precision": runner.precision,
        "quality": asdict(request) | {"in_time": seconds is not None},
    }  # fmt: skip
    try:
        with AnswerFile.open(out, job) as answers, counting("images", len(files)) as advance:
            if answers.progress.rows:
                console.print(f"going on after {answers.progress.rows:,} of {len(files):,} images", highlight=False)
            advance(answers.progress.rows)
            run(files, loaded, runner, pace, answers, advance)
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on from here")
        raise typer.Exit(130) from None
    _say(answers.progress, loaded.table, out, time.monotonic() - began, seconds)
    if answers.progress.errors == len(files):
        raise LcclError(f"none of the {len(files):,} files could be classified")


def _seconds(text: str) -> float:
    match = DURATION.fullmatch(text)
    parts = [int(part or 0) for part in match.groups()] if match else [0]
    if not any(parts):
        raise QualityError(f"--finish-in is a time such as 90s, 20m or 1h30m, not {text!r}")
    hours, minutes, seconds = parts
    return 3600.0 * hours + 60 * minutes + seconds


def _points(
    table: "OperatingPointTable", request: lccl.QualityRequest, seconds: float | None
) -> tuple["OperatingPoint", ...]:
    """What may be used, from what is wanted to ever sparser points."""
    if seconds is None:
        return (lccl.resolve(table, request).wanted,)
    if request.sparsity is not None or request.operating_point is not None:
        raise QualityError("--finish-in is a target, as --sparsity and --operating-point are: give one of them")
    in_time = lccl.QualityRequest(deadline_ms=1000 * seconds, max_accuracy_drop=request.max_accuracy_drop)
    return lccl.resolve(table, in_time).points


def _say(progress: "Progress", table: "OperatingPointTable", out: Path, took: float, allowed: float | None) -> None:
    """What was used, what could not be read, and where the answers are."""
    from lccl.classify.answers import INTERPOLATED

    used = [(point.name, f"{point.accuracy:.4f}") for point in table.points] + [(INTERPOLATED, "–")]
    print_table(
        ("point", "images", "expected accuracy"),
        ((name, f"{progress.points[str(name)]:,}", accuracy) for name, accuracy in used if progress.points[str(name)]),
    )
    if progress.errors:
        more = f"\n  and {progress.errors - len(progress.first_errors):,} more"
        named = "\n  ".join(progress.first_errors) + more * (progress.errors > len(progress.first_errors))
        text = f"{progress.errors:,} of {progress.rows:,} files have an error and no answer:\n  {named}"
        console.print(f"[yellow]warning[/yellow] {escape(text)}", highlight=False, soft_wrap=True)
    console.print(f"{progress.rows:,} rows in {out}, {took:.1f} s", highlight=False, soft_wrap=True, markup=False)
    if allowed is not None and took > allowed:
        console.print(f"[yellow]warning[/yellow] it took {took - allowed:.1f} s longer than asked", highlight=False)
