"""What is measured: a network and its plain twin, images, and thresholds for the wanted skip ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lccl.bench.images import Images, dataset_images, noise_images
from lccl.bundle import format as bundles
from lccl.engines.reference import ReferenceEngine, State
from lccl.errors import LcclError
from lccl.networks import NETWORKS, Architecture, ResNet, build
from lccl.networks.gates import Gate
from lccl.networks.lowering import lower
from lccl.networks.resnet import Block, PreActivationBlock
from lccl.operating_points import OperatingPointTable, QualityRequest
from lccl.plan.run import RunOptions
from lccl.plan.steps import Classify, Convolve, Step
from lccl.preprocessing import Preprocessing

SKIP = (0.35, 0.5, 0.7)
OPEN = "−∞"
DENSE = "dense"
TOLERANCE = 0.05
FITTED = 0.3
SANE = (1e-3, 1e3)
FINITE = (0.0, 1e30)


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """Thresholds, one per SkipConv, and exit confidences, and what they come to on the workload's images.

    Attributes:
        name: as tables show it; ``−∞`` is the setting that skips nothing, leaves by no exit, and computes both.
        wanted: the skip ratio asked for; None for ``−∞``.
        kept: int64 [P, L], cells kept of each image, as the reference engine counts them.
        exit_confidence: one per early exit, or none where nobody leaves early.

    """

    name: str
    wanted: float | None
    thresholds: tuple[float, ...]
    norm_set: int
    kept: NDArray[np.int64]
    exit_confidence: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """An engine's own counts over all P images.

    Attributes:
        kept: int64 [P, L], cells.
        executed: int64 [P], MACs.
        exit: int64 [P], the exit that each image left by; the number of exits where it ran to the end.

    """

    kept: NDArray[np.int64]
    executed: NDArray[np.int64]
    exit: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """A network in evaluation mode, its plain twin (same convolutions, normalisations and classifier), and P images.

    P is a multiple of ``batch``. ``settings`` start with ``−∞``. ``logits`` are float32 [P, classes], by the
    reference engine: the plain twin's under ``dense``, the network's own with nothing skipped under ``−∞``.
    """

    name: str
    digest: str
    architecture: Architecture
    network: ResNet
    twin: ResNet
    preprocessing: Preprocessing
    images: Images
    batch: int
    settings: tuple[Setting, ...]
    logits: dict[str, NDArray[np.float32]]

    @property
    def batches(self) -> int:
        """How many different batches the images make."""
        return len(self.images.images) // self.batch


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """What a model argument came to; ``table`` is None for fresh weights."""

    name: str
    architecture: Architecture
    network: ResNet
    preprocessing: Preprocessing
    table: OperatingPointTable | None = None
    digest: str = ""


def make_workload(model: Model, images: Images, batch: int, skip: Sequence[float] | None) -> Workload:
    """Fit fresh weights to the images, choose thresholds for every ratio of ``skip``, and check the values.

    Without ``skip`` the usual ratios are taken, of a bundle those that it offers.

    Raises:
        LcclError: a ratio cannot be reached, or values grow or vanish on the way.

    """
    if model.table is None:
        fit_statistics(model.network, torch.from_numpy(normalised(images.images, model.preprocessing)))
    plan = lower(model.network, model.preprocessing)
    engine = ReferenceEngine(plan, torch.device("cpu"))
    closed = [_setting(model, engine, images, value) for value in _ratios(model.table, skip)]
    nothing = (float("-inf"),) * len(plan.layers)
    limits = SANE if model.table is None else FINITE
    logits, kept = _run(engine, images.images, nothing, 0, limits)
    twin = plain_twin(model.architecture, model.network)
    dense = lower(twin, model.preprocessing)
    without = ReferenceEngine(dense, torch.device("cpu"))
    expected, _ = _run(without, images.images, (), 0, limits)
    return Workload(
        name=model.name,
        digest=model.digest,
        architecture=model.architecture,
        network=model.network,
        twin=twin,
        preprocessing=model.preprocessing,
        images=images,
        batch=batch,
        settings=(Setting(OPEN, None, nothing, 0, kept), *closed),
        logits={DENSE: expected, OPEN: logits},
    )


def find_model(name: str, form: str | None = None, gate: str | None = None) -> Model:
    """Load the bundle in the folder ``name``, or build the network of that name with fresh weights.

    Raises:
        LcclError: there is neither, or it has no gates, or split convolutions.

    """
    if Path(name).is_dir():
        if form is not None or gate is not None:
            raise LcclError("a bundle brings its block form and gates along: leave --form and --gate out")
        loaded = bundles.load(Path(name))
        model = Model(
            Path(name).resolve().name,
            loaded.architecture,
            loaded.network,
            loaded.preprocessing,
            loaded.table,
            loaded.digest,
        )
    elif name in NETWORKS:
        architecture = Architecture(name, form or "auto", gate or "shared")
        network = _fresh(architecture)
        if network.image_size > 64:
            architecture = replace(architecture, classes=1000)
            network = _fresh(architecture)
        size = network.image_size
        model = Model(name, architecture, network, Preprocessing(size, size, (0.5,) * 3, (0.25,) * 3))
    else:
        raise LcclError(f"{name!r} is neither a bundle's folder nor a network: use one of {', '.join(NETWORKS)}")
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
    least = max(2 * batch, 16 if model.preprocessing.size > 64 else 64)
    return -(-least // batch) * batch


def fit_statistics(network: ResNet, images: Tensor) -> None:
    """Give a fresh network's normalisations the statistics of these normalised images [N, 3, H, W].

    They are taken while every layer skips the share ``FITTED``, as training with thresholds would. Gates multiply:
    so that values neither grow nor vanish when nothing is skipped, or most, they become 0.95 ± 0.02, and blocks
    add half of what they would, of many blocks less. The gates' weights lean to the positive, and a block's second
    gate has no negative ones: where all of its input was skipped it is lowest, for such places have one value in
    common, and no threshold parts them. The first convolution answers to edges, as a trained one does, and not to
    brightness, in which images differ most.
    """
    stem = network.stem_conv.weight.data
    stem -= stem.mean((2, 3), keepdim=True)
    for block in network.blocks:
        convs = list(cast(Block, block).convs.values())
        last = cast("nn.Conv2d | nn.BatchNorm2d", convs[-1].norm or convs[-1].conv)  # fresh networks are not split
        last.weight.data *= min(0.5, 14 / len(network.blocks))
        for gate in [conv.gate for conv in convs if conv.gate is not None][1:]:
            gate.conv.weight.data.abs_()
    for gate in (module for module in network.modules() if isinstance(module, Gate)):
        weight = gate.conv.weight.data
        weight += 2 * weight.std() / weight[0].numel() ** 0.5
        assert gate.norm is not None  # fresh networks are built with it
        nn.init.constant_(gate.norm.weight, 0.02)
        nn.init.constant_(gate.norm.bias, 0.95)
    hooks = [
        block.norms[2].register_forward_pre_hook(partial(_turn, cast(nn.Conv2d, block.convs["conv2"].conv)))
        for block in network.blocks if isinstance(block, PreActivationBlock) and len(block.convs) == 3
    ]  # fmt: skip
    hooks += [
        module.register_forward_pre_hook(_fit) if isinstance(module, nn.BatchNorm2d) else
        module.register_forward_hook(_shut)
        for module in network.modules() if isinstance(module, nn.BatchNorm2d | Gate)
    ]  # fmt: skip
    with torch.inference_mode():
        network.eval()(images)
    for hook in hooks:
        hook.remove()


def _turn(conv: nn.Conv2d, _: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """A hook: channels of a negative mean change their sign, so that 0, where skipped, is low in all of them.

    A 1×1 gate sees nothing beside such a place that would tell it from others.
    """
    sign = torch.where(inputs[0].mean((0, 2, 3)) < 0, -1.0, 1.0)
    conv.weight *= sign[:, None, None, None]
    return inputs[0] * sign[:, None, None]


def _fit(norm: nn.Module, inputs: tuple[Tensor]) -> None:
    """A hook: the normalisation takes the statistics of its input."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    norm.running_var.copy_(inputs[0].var((0, 2, 3), unbiased=False))


def _shut(_: nn.Module, __: tuple[Tensor], gates: Tensor) -> Tensor:
    """A hook: the smallest of the gate's values become 0."""
    return gates * (gates > float(np.quantile(gates.numpy(), FITTED)))


def plain_twin(architecture: Architecture, network: ResNet) -> ResNet:
    """The same network without its gates and SideNets, sharing every other weight's values."""
    twin = build(architecture.plain_twin)
    wanted = twin.state_dict()
    twin.load_state_dict({name: value for name, value in network.state_dict().items() if name in wanted})
    return twin.eval().requires_grad_(False)


@torch.inference_mode()
def choose_thresholds(engine: ReferenceEngine, images: NDArray[np.uint8], skip: float) -> tuple[float, ...]:
    """One threshold per layer, for all images alike, under which each layer skips the share ``skip`` of its cells.

    Layer by layer: a layer's gates are those of inputs that the earlier layers have skipped in already.

    Raises:
        LcclError: a layer's gates do not allow it.

    """
    layers = len(engine.plan.layers)
    state = engine.begin(images, RunOptions.uniform(len(images), [float("-inf")] * layers))
    for step in engine.plan.steps:
        engine.step(step, state)
        if isinstance(step, Convolve) and step.gate is not None:
            column = step.gate.layer
            gates = state.gates[column].numpy()
            state.thresholds[:, column] = float(np.quantile(gates, skip))
            engine.step(step, state)
            reached = 1 - float(state.masks[column].float().mean())
            if abs(reached - skip) > TOLERANCE:
                raise LcclError(
                    f"{step.name} skips {reached:.3f} of its cells where {skip:g} is asked for: "
                    f"{float((gates <= 0).mean()):.3f} of its gates are zero"
                )
        _check_values(step, state, SANE)
    return tuple(state.thresholds[0].tolist())


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
    found = tuple(value for value in SKIP if low < value <= high)
    return found or ((high,) if high > low else ())


def _setting(model: Model, engine: ReferenceEngine, images: Images, skip: float) -> Setting:
    if model.table is None:
        thresholds = choose_thresholds(engine, images.images, skip)
        _, kept = _run(engine, images.images, thresholds, 0, SANE)
        return Setting(f"{skip:g}", skip, thresholds, 0, kept)
    found = model.table.resolve(QualityRequest(sparsity=skip))
    _, kept = _run(engine, images.images, found.thresholds, found.norm_set, FINITE, found.exit_confidence)
    return Setting(f"{skip:g}", skip, found.thresholds, found.norm_set, kept, found.exit_confidence)


@torch.inference_mode()
def _run(
    engine: ReferenceEngine,
    images: NDArray[np.uint8],
    thresholds: Sequence[float],
    norm_set: int,
    limits: tuple[float, float],
    exit_confidence: Sequence[float] = (),
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits [P, classes] and kept cells [P, L] of all images under the same thresholds and exit confidences.

    Raises:
        LcclError: values grow or vanish on the way.

    """
    logits, kept = [], []
    for start in range(0, len(images), engine.batch_limit):
        part = images[start : start + engine.batch_limit]
        options = RunOptions.uniform(len(part), thresholds, norm_set, exit_confidence=exit_confidence)
        output, state = engine.trace(part, options)
        for step in engine.plan.steps:
            _check_values(step, state, limits)
        logits.append(output.logits)
        kept.append(output.kept)
    return cast("NDArray[np.float32]", np.concatenate(logits)), np.concatenate(kept)


def _check_values(step: Step, state: State, limits: tuple[float, float]) -> None:
    """Refuse values that no trained network has: arithmetic on them may take another time, or overflow.

    ``limits`` are those of their root mean square. A trained network's own are its affair, if only they are finite.

    Raises:
        LcclError: with the step's name and how large its values are.

    """
    names = [getattr(step, "raw", None), step.activated.buffer if isinstance(step, Convolve) and step.activated else ""]
    values = [state.values[name] for name in names if name]
    if isinstance(step, Classify) and state.logits is not None:
        values.append(state.logits)
    for value in values:
        if not len(value):  # all images have left
            continue
        size = float(value.square().mean().sqrt())
        if not limits[0] <= size <= limits[1]:
            raise LcclError(f"values of size {size:.3g} in {getattr(step, 'name', type(step).__name__)}: not a network")


def normalised(images: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Uint8 [N, H, W, 3] → float32 [N, 3, H, W], as ``Normalise`` does it."""
    mean, std = (np.asarray(values, dtype=np.float32) for values in (preprocessing.mean, preprocessing.std))
    pixels = (images.astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
