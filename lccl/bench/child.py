"""A contestant in a process of its own: built once, then driven in turns over a pipe, asleep in between.

Thread pools of different runtimes in one process, or one that spins while another works, slow each other
down; so each contestant has a process, and only one of them works at any time.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lccl.bench.workload import DENSE, Counts, Workload
from lccl.errors import LcclError

OWN_DENSE, OWN = "own dense", "LCCL"
LOGITS_WITHIN = {"fp64": 1e-6, "fp32": 2e-3, "bf16": 0.15}
WEIGHTS = {OWN: "network.safetensors", OWN_DENSE: "twin.safetensors"}


@dataclass(frozen=True, slots=True)
class Task:
    """What a child is to build: a baseline by name, ``own dense`` or ``LCCL``, for the workload in ``folder``."""

    folder: str
    contestant: str
    threads: int
    precision: str


class AbsentError(LcclError):
    """A contestant that cannot take part; its text says why, in a few words for a table."""


def save_workload(workload: Workload, folder: Path) -> None:
    """Write what children need: weights, images, thresholds and the logits that they are held against."""
    from safetensors.torch import save_file

    for contestant, network in ((OWN, workload.network), (OWN_DENSE, workload.twin)):
        state = {name: value.contiguous() for name, value in network.state_dict().items()}
        save_file(state, folder / WEIGHTS[contestant])
    np.save(folder / "images.npy", workload.images.images)
    for name, logits in workload.logits.items():
        np.save(folder / f"logits {name}.npy", logits)
    description = {
        "architecture": workload.architecture.to_json(),
        "sidenets": [asdict(spec) for spec in workload.network.sidenets.specs],
        "preprocessing": workload.preprocessing.to_json(),
        "batch": workload.batch,
        "settings": {
            setting.name: [setting.thresholds, setting.norm_set, setting.exit_confidence]
            for setting in workload.settings
        },
    }
    (folder / "workload.json").write_text(json.dumps(description), encoding="utf-8")


class Child:
    """The parent's end of a contestant's process."""

    def __init__(self, task: Task) -> None:
        """Start the process and wait until it is ready.

        Raises:
            AbsentError: it cannot be built, or gives other logits than the reference engine.

        """
        self.task = task
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, task), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._answer()
        except LcclError:
            self.close()
            raise

    def time(self, setting: str, repeats: int) -> NDArray[np.float64]:
        """Seconds of each run, float64 [repeats, batches], after a first untimed one."""
        return cast("NDArray[np.float64]", self._ask("time", setting, repeats))

    def count(self, setting: str) -> Counts:
        """Own engines only: what all images kept and executed, and the exits they left by."""
        return cast(Counts, self._ask("count", setting))

    def profile(self, setting: str, index: int, repeats: int) -> NDArray[np.float64]:
        """Own engines only: median seconds of each of the plan's steps on one batch, float64 [steps]."""
        return cast("NDArray[np.float64]", self._ask("profile", setting, index, repeats))

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def _ask(self, *message: object) -> object:
        self._pipe.send(message)
        return self._answer()

    def _answer(self) -> object:
        try:
            kind, content = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join(5)
            raise AbsentError(f"its process ended with status {self._process.exitcode}") from error
        if kind == "error":
            raise AbsentError(str(content))
        return content


def serve(pipe: Connection, task: Task) -> None:
    """The child's whole life: build, report, then answer one message after the other until the pipe closes."""
    try:
        answers = _answers(task)
    except Exception as error:  # whatever a foreign runtime raises is the parent's to tell
        pipe.send(("error", _in_one_line(error)))
        return
    pipe.send(("done", None))
    while True:
        try:
            name, *arguments = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            pipe.send(("done", answers[name](*arguments)))
        except Exception as error:  # as above
            pipe.send(("error", _in_one_line(error)))


def timed(run: Callable[[int], Any], batches: int, repeats: int) -> NDArray[np.float64]:
    """Seconds of ``run(index)`` for every batch, ``repeats`` times over, float64 [repeats, batches]."""
    seconds = np.zeros((repeats, batches))
    run(batches - 1)
    for repeat in range(repeats):
        for index in range(batches):
            started = time.perf_counter()
            run(index)
            seconds[repeat, index] = time.perf_counter() - started
    return seconds


def _answers(task: Task) -> dict[str, Callable[..., Any]]:
    """Build the contestant, check its logits, and say what it answers to which message."""
    import torch

    folder = Path(task.folder)
    description = json.loads((folder / "workload.json").read_text(encoding="utf-8"))
    images = np.load(folder / "images.npy")
    batches = tuple(np.split(images, len(images) // description["batch"]))
    own = task.contestant in WEIGHTS
    # Own engines have threads of their own; others take torch's.
    torch.set_num_threads(1 if own else task.threads)
    torch.set_num_interop_threads(1)
    answers: dict[str, Callable[..., Any]]
    if own:
        engine = _own(task, description, batches)
        runner = engine.runner
        answers = {"count": engine.count, "profile": engine.profile}
    else:
        baseline = _baseline(task, description, batches)
        answers = {}

        def runner(_: str) -> Callable[[int], NDArray[np.float32]]:
            return cast("Callable[[int], NDArray[np.float32]]", baseline.run)

    known = next(iter(description["settings"])) if task.contestant == OWN else DENSE
    _check_logits(runner(known), len(batches), np.load(folder / f"logits {known}.npy"), task.precision)
    return answers | {"time": lambda setting, repeats: timed(runner(setting), len(batches), repeats)}


def _own(task: Task, description: dict[str, Any], batches: tuple[NDArray[np.uint8], ...]) -> Any:
    from lccl.bench.own import own_engine
    from lccl.preprocessing import Preprocessing

    settings = description["settings"] if task.contestant == OWN else {DENSE: ((), 0, ())}
    return own_engine(
        _network(task, description, task.contestant),
        Preprocessing.from_json(description["preprocessing"]),
        batches,
        {name: (tuple(thresholds), norm_set, tuple(sure)) for name, (thresholds, norm_set, sure) in settings.items()},
        precision=task.precision,
        threads=task.threads,
    )


def _baseline(task: Task, description: dict[str, Any], batches: tuple[NDArray[np.uint8], ...]) -> Any:
    from lccl.bench.baselines import BASELINES, Job
    from lccl.bench.workload import normalised
    from lccl.preprocessing import Preprocessing

    preprocessing = Preprocessing.from_json(description["preprocessing"])
    job = Job(
        twin=_network(task, description, OWN_DENSE),
        batches=tuple(normalised(batch, preprocessing) for batch in batches),
        threads=task.threads,
        precision=task.precision,
        folder=Path(task.folder),
    )
    return BASELINES[task.contestant](job)


def _network(task: Task, description: dict[str, Any], which: str) -> Any:
    from safetensors.torch import load_file

    from lccl.networks import Architecture, build
    from lccl.networks.sidenet import SideNetSpec

    architecture = Architecture.from_json(description["architecture"])
    network = build(architecture if which == OWN else architecture.plain_twin)
    if which == OWN:
        network.add_sidenets([SideNetSpec.from_json(entry) for entry in description["sidenets"]])
    network.load_state_dict(load_file(Path(task.folder) / WEIGHTS[which]))
    return network.eval().requires_grad_(False)


def _check_logits(
    run: Callable[[int], NDArray[np.float32]], batches: int, expected: NDArray[np.float32], precision: str
) -> None:
    """Refuse what computes something else; bf16 rounds every value to 8 bits, so it is held loosely.

    Raises:
        AbsentError: the logits differ by more than a share of the largest.

    """
    # A copy each: what a runtime returns may be its own buffer.
    found = np.concatenate([np.array(run(index)) for index in range(batches)])
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not error <= LOGITS_WITHIN[precision]:
        raise AbsentError(f"its logits are off by {error:.2g} of the largest")


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, LcclError) else f"{type(error).__name__}: {text}"
