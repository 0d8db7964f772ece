"""Whole networks: own dense and own at several skip ratios beside the fastest dense network, in one run.

Weights are fresh and thresholds are fitted to them, so that each layer skips the share that is asked for; every figure
uses the ratio that was reached on the timed images. All start from uint8 pixels and end with logits: device time from
device memory to device memory under a CUDA graph, end to end from the host's memory to the host's.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.gpu.baselines import Baseline, Baselines, dense_networks
from benchmarks.gpu.timing import Clock, Launch, Samples, WallClock, take_turns
from lccl.bench.images import noise_images
from lccl.bench.workload import Model, choose_thresholds, find_model, fit_statistics, normalised, plain_twin
from lccl.engines.reference import ReferenceEngine
from lccl.errors import LcclError
from lccl.networks import ResNet
from lccl.networks.lowering import lower
from lccl.plan.geometry import NetworkShape
from lccl.plan.run import RunOptions, RunOutput
from lccl.plan.steps import Plan

SKIP = (0.5, 0.3, 0.7)
FITTED_ON = {32: 64, 224: 16}  # images, by their side: what thresholds are fitted to
DENSE = "own dense"
DISAGREES = 0.1  # of the logits' size: beyond what half precision explains

Figures = dict[str, Any]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Case:
    """A network at one batch size, and how many runs a turn has."""

    network: str
    batch: int
    runs: int = 5

    @property
    def name(self) -> str:
        return f"{self.network} b{self.batch}"


# In the order of what is to be known first, for a lease may end.
CASES = (
    Case("resnet18", 256), Case("wrn-28-10", 256), Case("resnet20", 1, 20), Case("resnet20", 64, 20),
    Case("resnet34", 256), Case("resnet18", 32), Case("wrn-28-10", 32), Case("resnet34", 32),
    Case("resnet110", 1, 20), Case("resnet110", 64, 20),
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A network with fresh weights, its plain twin, and thresholds by skip ratio."""

    model: Model
    twin: ResNet
    thresholds: Mapping[float, tuple[float, ...]]


class OwnNetwork(Protocol):
    """A plan on the own engine."""

    @property
    def shape(self) -> NetworkShape:
        """The plan's geometry."""
        ...

    def run(self, images: Pixels, options: RunOptions) -> RunOutput:
        """From the host's memory to the host's."""
        ...

    def launch(self, images: Pixels, options: RunOptions) -> Launch:
        """The device's part of that run, its inputs laid down already."""
        ...


MakeNetwork = Callable[[Plan, int], OwnNetwork]


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """The own engine's contestants: device work by name, the same end to end, and what each kept."""

    launches: dict[str, Launch]
    runs: dict[str, Launch]
    outputs: dict[str, RunOutput]
    shape: NetworkShape


def fit(network: str, skip: Sequence[float] = SKIP) -> Fitted:
    """Fresh weights with the statistics of noise images, and thresholds for each ratio, found on the CPU.

    Raises:
        LcclError: a layer's gates do not allow a ratio.

    """
    model = find_model(network)
    side = model.preprocessing.size
    images = noise_images(FITTED_ON[side], side, seed=1)
    fit_statistics(model.network, torch.from_numpy(normalised(images.images, model.preprocessing)))
    plan = lower(model.network, model.preprocessing)
    engine = ReferenceEngine(plan, torch.device("cpu"))
    thresholds = {ratio: choose_thresholds(engine, images.images, ratio) for ratio in skip}
    return Fitted(model, plain_twin(model.architecture, model.network), thresholds)


def measure(
    case: Case, fitted: Fitted, make: MakeNetwork, clock: Clock, device: torch.device, rounds: int, until: float
) -> Figures:
    """Measure one case; compiling baselines ends at ``until``, a time of :func:`time.monotonic`.

    Raises:
        LcclError: own dense disagrees with every baseline, or none could be made: there is nothing to compare.

    """
    images = noise_images(case.batch, fitted.model.preprocessing.size).images
    pixels = torch.from_numpy(images).to(device)
    own = _own(fitted, make, images, clock)
    dense = dense_networks(fitted.twin, fitted.model.preprocessing, pixels, clock, until)
    if not dense.ready:
        raise LcclError(f"no baseline could be made for {case.name}: {dense.failed}")
    errors = _errors(own.outputs[DENSE].logits, dense)
    launches = {name: baseline.launch for name, baseline in dense.ready.items()}
    samples = take_turns({**launches, **own.launches}, clock, rounds, case.runs)
    best = samples.fastest(list(launches))
    whole = take_turns({**own.runs, best: _end_to_end(dense.ready[best], images)}, WallClock(), rounds, case.runs)
    return {
        "case": case.name,
        "network": case.network,
        "batch": case.batch,
        "baselines": {name: samples.figures(name) for name in launches},
        "baselines_not_measured": dense.failed,
        "best_baseline": best,
        "own_dense_error": errors,
        "own_dense": _against(samples, whole, DENSE, best),
        "settings": [_setting(f"{ratio:g}", own, samples, whole, best) for ratio in fitted.thresholds],
        "end_to_end": {name: whole.figures(name) for name in whole.seconds},
    }


def realised(seconds: float, dense_seconds: float, gated: float, dense: float) -> float:
    """(1 − t(s) / t(own dense)) / (1 − gated / dense): the share of the saving in theory that became time."""
    return (1 - seconds / dense_seconds) / (1 - gated / dense)


def measure_all(
    cases: Sequence[Case],
    make: MakeNetwork,
    clock: Clock,
    device: torch.device,
    rounds: int,
    until: float,
    keep: Callable[[Figures], None],
) -> Figures:
    """Measure cases in turn; one that fails is noted, one that no time is left for too. ``keep`` sees each result."""
    made: Figures = {"cases": [], "not_measured": {}}
    fitted: dict[str, Fitted] = {}
    for number, case in enumerate(cases):
        now = time.monotonic()
        if now > until:
            made["not_measured"][case.name] = "no time was left"
            continue
        try:
            if case.network not in fitted:
                fitted[case.network] = fit(case.network)
            share = now + (until - now) / (len(cases) - number)
            made["cases"].append(measure(case, fitted[case.network], make, clock, device, rounds, share))
        except (LcclError, RuntimeError) as error:  # RuntimeError: of the device
            made["not_measured"][case.name] = f"{type(error).__name__}: {error}"[:500]
        gc.collect()
        keep(made)
    return made


def show(made: Figures, console: Console) -> None:
    """A line for each case: times, and own against the best dense network."""
    table = Table(title="Networks, device time", title_justify="left", box=None, header_style="bold")
    columns = (
        "case",
        "best baseline",
        "ms",
        "own dense ms",
        "×",
        *(f"× at {skip:g}" for skip in sorted(SKIP)),
        "realised 0.5",
    )
    for column in columns:
        table.add_column(column, justify="left" if column in ("case", "best baseline") else "right")
    for row in made["cases"]:
        settings = {setting["name"]: setting for setting in row["settings"]}
        speed = [f"{settings[f'{skip:g}']['speed_against_best_baseline']:.2f}" for skip in sorted(SKIP)]
        best, dense = row["best_baseline"], row["own_dense"]
        table.add_row(
            row["case"], best, f"{row['baselines'][best]['median_ms']:.3f}", f"{dense['median_ms']:.3f}",
            f"{dense['speed_against_best_baseline']:.2f}", *speed, f"{settings['0.5']['realised']:.3f}",
        )  # fmt: skip
    console.print(table)
    for name, why in made["not_measured"].items():
        console.print(f"[red]{name} was not measured: {why}", markup=True)


def _own(fitted: Fitted, make: MakeNetwork, images: Pixels, clock: Clock) -> Own:
    """Own dense and own at each ratio, made ready; every one has run once."""
    preprocessing = fitted.model.preprocessing
    gated = make(lower(fitted.model.network, preprocessing), len(images))
    plain = make(lower(fitted.twin, preprocessing), len(images))
    wanted = {DENSE: (plain, RunOptions.uniform(len(images), []))}
    for ratio, thresholds in fitted.thresholds.items():
        wanted[f"{ratio:g}"] = (gated, RunOptions.uniform(len(images), thresholds))
    return Own(
        launches={name: clock.graph(network.launch(images, options)) for name, (network, options) in wanted.items()},
        runs={name: _run(network, images, options) for name, (network, options) in wanted.items()},
        outputs={name: network.run(images, options) for name, (network, options) in wanted.items()},
        shape=gated.shape,
    )


def _run(network: OwnNetwork, images: Pixels, options: RunOptions) -> Launch:
    return lambda: network.run(images, options)


def _errors(logits: NDArray[np.floating[Any]], dense: Baselines) -> dict[str, float]:
    """‖own − baseline‖ / ‖baseline‖ of each baseline's logits.

    Raises:
        LcclError: none is near: times of wrong answers are worth nothing.

    """
    found = {}
    for name, baseline in dense.ready.items():
        baseline.launch()
        expected = baseline.logits.double().cpu().numpy()
        found[name] = float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))
    if not min(found.values()) <= DISAGREES:
        raise LcclError(f"own dense disagrees with the baselines, by {found} of their logits' size")
    return {name: round(error, 6) for name, error in found.items()}


def _setting(name: str, own: Own, samples: Samples, whole: Samples, best: str) -> Figures:
    output, shape = own.outputs[name], own.shape
    gated = float(shape.gated(output.kept).mean())
    saved = {"realised": samples.ratio(name, DENSE), "realised_end_to_end": whole.ratio(name, DENSE)}
    return {
        "name": name,
        "skip_reached": round(float(shape.skip_ratio(output.kept).mean()), 4),
        "dense_macs": shape.dense,
        "gated_macs": round(gated, 1),
        "executed_macs": round(float(output.executed_macs.mean()), 1),
        **_against(samples, whole, name, best),
        **{label: round(realised(ratio, 1, gated, shape.dense), 4) for label, ratio in saved.items()},
    }


def _against(samples: Samples, whole: Samples, name: str, best: str) -> Figures:
    return samples.figures(name) | {
        "speed_against_best_baseline": round(samples.ratio(best, name), 4),
        "speed_end_to_end": round(whole.ratio(best, name), 4),
    }


def _end_to_end(baseline: Baseline, images: Pixels) -> Launch:
    """A baseline from the host's memory to the host's, its pixels through memory that the device reads by itself."""
    staged = torch.empty(images.shape, dtype=torch.uint8, pin_memory=baseline.pixels.is_cuda)

    def run() -> Tensor:
        staged.copy_(torch.from_numpy(images))
        baseline.pixels.copy_(staged, non_blocking=True)
        baseline.launch()
        return baseline.logits.cpu()

    return run
