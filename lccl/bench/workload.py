"""What is measured: a network and its plain twin, images, and settings for the wanted skip ratios."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from lccl.bench.images import Images, dataset_images, noise_images
from lccl.bench.untrained import FINITE, SANE, check_values, choose_thresholds, fit
from lccl.bundle import format as bundles
from lccl.engines.reference import ReferenceEngine
from lccl.errors import LcclError
from lccl.networks import Architecture, ResNet, build
from lccl.networks.lowering import lower
from lccl.operating_points import OperatingPointTable
from lccl.plan.run import RunOptions, RunOutput, Setting
from lccl.plan.steps import Plan
from lccl.preprocessing import Preprocessing
from lccl.quantization.choice import least_error
from lccl.quantization.parameters import Quantisation
from lccl.quantization.plan import quantise
from lccl.request import QualityRequest, resolve

OWN_DENSE, OWN = "own dense", "LCCL"
DENSE = "dense"  # the plain twin's only setting
FLOAT = "dense, float"  # its logits in fp32, where it is measured in int8
OPEN = "−∞"  # nothing is skipped, no image leaves by an exit, and both are computed


SKIP = (0.35, 0.5, 0.7)


@dataclass(frozen=True, slots=True, eq=False)
class NamedSetting:
    """A setting, and what it comes to on the workload's sample.

    Attributes:
        name: as tables show it; ``−∞`` is the setting that skips nothing, leaves by no exit, and computes both.
        wanted: the skip ratio asked for; None for ``−∞``.
        kept: int64 [sample, L], cells kept of each image, as the reference engine counts them.

    """

    name: str
    wanted: float | None
    setting: Setting
    kept: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """An engine's own counts over P images.

    Attributes:
        kept: int64 [P, L], cells.
        executed: int64 [P], MACs.
        exit_index: int64 [P], the exit that answered; the number of exits where the network ran to its end.

    """

    kept: NDArray[np.int64]
    executed: NDArray[np.int64]
    exit_index: NDArray[np.int64]


def count_outputs(outputs: Iterable[RunOutput]) -> Counts:
    """What some batches' outputs count together."""
    columns = zip(*((output.kept, output.executed_macs, output.exit_index) for output in outputs), strict=True)
    return Counts(*map(np.concatenate, columns))


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """A network in evaluation mode, its plain twin, and P images.

    P is a multiple of ``batch``. The first of the images are the sample, which thresholds are chosen on and engines are
    held against the reference engine on. ``settings`` start with ``−∞``. ``logits`` are float32 [sample, classes], by
    the reference engine: the plain twin's under ``dense``, the network's own with nothing skipped under ``−∞``, and
    the twin's in fp32 under ``dense, float``. ``plan`` and ``dense_plan`` are the network's and the twin's, quantised
    for int8.
    """

    name: str
    digest: str
    architecture: Architecture
    network: ResNet
    twin: ResNet
    plan: Plan
    dense_plan: Plan
    preprocessing: Preprocessing
    images: Images
    batch: int
    settings: tuple[NamedSetting, ...]
    logits: dict[str, NDArray[np.float32]]

    @property
    def dense_settings(self) -> tuple[NamedSetting, ...]:
        """The plain twin's only one."""
        return (NamedSetting(DENSE, None, Setting(()), np.zeros((len(self.logits[DENSE]), 0), np.int64)),)

    @property
    def batches(self) -> list[NDArray[np.uint8]]:
        """The images in batches, each uint8 [batch, H, W, 3]."""
        return np.split(self.images.images, len(self.images.images) // self.batch)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """What a model argument came to.

    Attributes:
        table: None for fresh weights.
        quantisation: None where none was chosen.
        twin: a plain twin trained as such; None takes the network's own weights without its gates.

    """

    name: str
    architecture: Architecture
    network: ResNet
    preprocessing: Preprocessing
    table: OperatingPointTable | None = None
    digest: str = ""
    precision: str = "fp32"
    quantisation: Quantisation | None = None
    twin: ResNet | None = None

    @property
    def sample(self) -> int:
        """How many images thresholds are chosen on."""
        return 16 if self.preprocessing.size > 64 else 64


def make_workload(model: Model, images: Images, batch: int, skip: Sequence[float] | None) -> Workload:
    """Fit fresh weights to the images, choose a setting for every ratio of ``skip``, and check the values.

    Without ``skip`` the usual ratios are taken, of a bundle those that it offers. In int8 the network and its twin are
    quantised on the sample, where the bundle does not bring its own scales; thresholds are chosen in int8.

    Raises:
        LcclError: a ratio cannot be reached, or values grow or vanish on the way.

    """
    table, sample = model.table, images.images[: model.sample]
    ratios = _ratios(table, skip)
    if table is None:
        fit(model.network, torch.from_numpy(normalised(sample, model.preprocessing)))
    twin = model.twin or plain_twin(model.architecture, model.network)
    plan, dense_plan = (lower(network, model.preprocessing) for network in (model.network, twin))
    float_plan = dense_plan
    if model.precision == "int8":
        plan = quantise(plan, model.quantisation or least_error(plan, sample))
        dense_plan = quantise(dense_plan, least_error(dense_plan, sample))
    engine = ReferenceEngine(plan, precision="auto")
    limits = SANE if table is None else FINITE
    nothing = Setting((float("-inf"),) * len(plan.layers))
    logits, kept = _run(engine, sample, nothing, limits)
    settings = [NamedSetting(OPEN, None, nothing, kept)]
    for ratio in ratios:
        if table is None:
            setting, kept = choose_thresholds(plan, sample, ratio)
        else:
            setting = resolve(table, QualityRequest(sparsity=ratio)).wanted.setting
            _, kept = _run(engine, sample, setting, limits)
        settings.append(NamedSetting(f"{ratio:g}", ratio, setting, kept))
    floating, _ = _run(ReferenceEngine(float_plan), sample, Setting(()), limits)
    dense = floating
    if dense_plan.quantised:
        dense, _ = _run(ReferenceEngine(dense_plan, precision="auto"), sample, Setting(()), limits)
    return Workload(
        model.name, model.digest, model.architecture, model.network, twin, plan, dense_plan, model.preprocessing,
        images, batch, tuple(settings), {DENSE: dense, FLOAT: floating, OPEN: logits},
    )  # fmt: skip


def find_model(name: str, form: str | None = None, gate: str | None = None, precision: str = "fp32") -> Model:
    """Build the network of that name with fresh weights, or load the bundle in the folder ``name``.

    Raises:
        LcclError: there is neither, or it has no gates, or split convolutions, or no points in int8.

    """
    folder = bundles.bundle_folder(name)
    if folder is not None:
        if form is not None or gate is not None:
            raise LcclError("a bundle brings its block form and gates along: leave --form and --gate out")
        loaded = bundles.load(folder).in_precision(precision)
        model = Model(
            folder.resolve().name,
            loaded.architecture,
            loaded.network,
            loaded.preprocessing,
            loaded.table,
            loaded.digest,
            precision,
            None if loaded.int8 is None else loaded.int8.quantisation,
        )
    else:
        architecture = Architecture(name, form or "auto", gate or "shared")
        network = _fresh(architecture)
        if network.image_size > 64:
            architecture = replace(architecture, classes=1000)
            network = _fresh(architecture)
        size = network.image_size
        model = Model(
            name, architecture, network, Preprocessing(size, size, (0.5,) * 3, (0.25,) * 3), precision=precision
        )
    if not model.network.skip_convs:
        raise LcclError(f"{name} has no gates, so there is nothing to skip")
    if model.architecture.split != "none":
        raise LcclError(f"{name} has split convolutions, which the cpu engine, measured here, does not run")
    return model


def find_images(model: Model, path: Path | None, batch: int) -> Images:
    """Images for whole batches of ``batch``: of the data set at ``path``, or drawn here.

    Raises:
        DataError: nothing readable is there, or there are too few images.

    """
    count = images_needed(model, batch)
    if path is None:
        return noise_images(count, model.preprocessing.size)
    return dataset_images(path, model.preprocessing, count)


def images_needed(model: Model, batch: int) -> int:
    """At least two batches, and enough images for thresholds that hold on others too; whole batches.

    Raises:
        LcclError: a batch of nothing.

    """
    if batch < 1:
        raise LcclError(f"a batch needs at least one image, not {batch}")
    least = max(2 * batch, model.sample)
    return -(-least // batch) * batch


def plain_twin(architecture: Architecture, network: ResNet) -> ResNet:
    """The same network without its gates and SideNets, sharing every other weight's values."""
    twin = build(architecture.plain_twin)
    wanted = twin.state_dict()
    twin.load_state_dict({name: value for name, value in network.state_dict().items() if name in wanted})
    return twin.eval().requires_grad_(False)


def _fresh(architecture: Architecture) -> ResNet:
    torch.manual_seed(0)
    return build(architecture).eval().requires_grad_(False)


def _ratios(table: OperatingPointTable | None, skip: Sequence[float] | None) -> tuple[float, ...]:
    if skip:
        for value in skip:
            if not 0 < value < 1:
                raise LcclError(f"a skip ratio must lie between 0 and 1, not {value:g}")
        return tuple(dict.fromkeys(skip))
    low, high = (0.0, 1.0) if table is None else table.sparsity_range
    usual = tuple(value for value in SKIP if low < value <= high)
    return usual or ((high,) if high > low else ())


@torch.inference_mode()
def _run(
    engine: ReferenceEngine, images: NDArray[np.uint8], setting: Setting, limits: tuple[float, float]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits [P, classes] and kept cells [P, L] of all images under one setting.

    Raises:
        LcclError: values grow or vanish on the way.

    """
    logits, kept = [], []
    for start in range(0, len(images), engine.batch_limit):
        part = images[start : start + engine.batch_limit]
        output, state = engine.trace(part, RunOptions.of([setting] * len(part)))
        for step in engine.plan.steps:
            check_values(step, state, limits)
        logits.append(output.logits)
        kept.append(output.kept)
    return cast("NDArray[np.float32]", np.concatenate(logits)), np.concatenate(kept)


def normalised(images: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Uint8 [N, H, W, 3] → float32 [N, 3, H, W], as ``Normalise`` does it."""
    mean, std = (np.asarray(values, dtype=np.float32) for values in (preprocessing.mean, preprocessing.std))
    pixels = (images.astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
