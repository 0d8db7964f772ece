"""From encoded images to answers, a batch at a time; the next ones are decoded meanwhile."""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lccl.bundle.format import Bundle
from lccl.classify.answers import INTERPOLATED, Answer, AnswerFile
from lccl.classify.pace import Pace
from lccl.data.images import MAX_PIXELS, UNREADABLE
from lccl.decoding.pixels import Pixels
from lccl.engines.base import Engine
from lccl.operating_points import OperatingPoint
from lccl.plan.run import RunOptions
from lccl.preprocessing import Preprocessing

FIRST = 8  # images of a first batch whose time is not known
NOT_FINITE = "the network's answer to it is not finite"
Read = tuple[str, Pixels | str]


class Files(Protocol):
    """Encoded images by number, wherever they lie."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def read(self, number: int) -> bytes:
        """One file's bytes; OSError: there is none any more; LcclError: it cannot be had now."""
        ...


def classify(
    files: Files, bundle: Bundle, engine: Engine, pace: Pace, answers: AnswerFile, progress: Callable[[int], None]
) -> None:
    """Answer all files that have no row yet, in their order. Memory does not depend on how many they are.

    Args:
        bundle: with the points that hold for the engine's precision.
        progress: is told how many more are done.

    """
    start, last = answers.progress.rows, time.monotonic()
    size = min(FIRST, engine.batch_limit) if math.isfinite(pace.ends_at) else engine.batch_limit
    with closing(_read_ahead(files, bundle.preprocessing, start, 2 * engine.batch_limit)) as coming:
        while start < len(files):
            batch = [next(coming) for _ in range(min(size, len(files) - start))]
            point = pace.choose(len(files) - start, time.monotonic())
            answers.add(_answer(batch, bundle, engine, point))
            now = time.monotonic()
            pace.learn(point, len(batch), now - last)
            start, last, size = start + len(batch), now, engine.batch_limit
            progress(len(batch))
    answers.finish()


def _answer(batch: list[Read], bundle: Bundle, engine: Engine, point: OperatingPoint) -> Iterator[Answer]:
    """A row for each file, in order."""
    pixels = [image for _, image in batch if not isinstance(image, str)]
    rows: Iterator[tuple[NDArray[np.float64], float, float]] = iter(())
    if pixels:
        output = engine.run(np.stack(pixels), RunOptions.of([point.setting] * len(pixels)))
        ratios, macs = engine.shape.skip_ratio(output.kept), engine.shape.gated(output.kept, output.exit_index)
        rows = zip(output.logits.astype(np.float64), ratios.tolist(), macs.tolist(), strict=True)
    name = point.name or INTERPOLATED
    for file, image in batch:
        if isinstance(image, str):
            yield Answer(file, error=image)
            continue
        logits, ratio, gated = next(rows)
        if not np.isfinite(logits).all():
            yield Answer(file, error=NOT_FINITE)
            continue
        best = int(logits.argmax())
        probability = float(1 / np.exp(logits - logits[best]).sum())
        yield Answer(file, bundle.labels[best], probability, name, point.skip_ratio, ratio, round(gated))


def _read_ahead(files: Files, preprocessing: Preprocessing, start: int, ahead: int) -> Generator[Read, None, None]:
    """Files in order, so many of them decoded in threads before they are asked for."""
    with ThreadPoolExecutor(os.cpu_count(), "decode") as threads:
        waiting: deque[Future[Read]] = deque()
        try:
            for number in range(start, len(files)):
                waiting.append(threads.submit(_read, files, preprocessing, number))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()


def _read(files: Files, preprocessing: Preprocessing, number: int) -> Read:
    """One file as the network gets it, decoded as in serving, or why it cannot be."""
    try:
        return files.names[number], preprocessing.decode(files.read(number), MAX_PIXELS)
    except UNREADABLE as error:
        return files.names[number], " ".join(str(error).split()) or type(error).__name__
