"""The training loop: one function that reads from top to bottom, resumable where it was ten minutes ago or later."""

import hashlib
import itertools
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lccl.bundle.training_record import DataRecord, TrainingRecord
from lccl.calibration.search import LARGEST_COST, gate_candidates, gate_values, search_thresholds, skipped_shares
from lccl.compiler import compile_network as compile_engine
from lccl.data import HeldOut, Split
from lccl.data.images import FileImages
from lccl.engines.base import Engine
from lccl.errors import EngineError, LcclError
from lccl.networks import Architecture, NetworkOutput, ResNet, build
from lccl.networks.inputs import normalise
from lccl.networks.lowering import network_shape
from lccl.preprocessing import Preprocessing, Statistics
from lccl.train.fake_quantization import FakeQuantised
from lccl.train.loader import batches, usual_workers
from lccl.train.recipe import Recipe
from lccl.train.run import Position, Run, WeightAverage, resume, save
from lccl.train.thresholds import ThresholdSampler
from lccl.train.watching import watch

Report = Callable[[str, int, int, dict[str, float]], None]
Curve = tuple[Tensor, Tensor]
SAVED_EVERY_S = 600.0
STATISTICS_IMAGES, AT_ONCE = 5000, 64
RANGED_IMAGES = 256


def train(
    architecture: Architecture,
    data: HeldOut,
    recipe: Recipe,
    folder: Path,
    *,
    device: torch.device,
    compile_network: bool,
    report: Report,
    start: ResNet | None = None,
    teacher: ResNet | None = None,
    statistics: Statistics | None = None,
    teacher_input: Preprocessing | None = None,
    follow: Curve | None = None,
    labels: Sequence[str] | None = None,
    fit: str | None = None,
    workers: int | None = None,
    change: Callable[[ResNet], None] | None = None,
) -> tuple[ResNet, TrainingRecord]:
    """Train a network and return it with the run's record; continue where ``folder`` holds a checkpoint.

    Args:
        data: images to train on; progress is watched on the part that also chooses thresholds.
        folder: where ``checkpoint.safetensors`` and ``record.json`` are kept, written after each epoch, and every ten
            minutes in a longer one.
        report: called as ``report("step" | "epoch" | "search", done, of, figures)``; a search has 0 for ``of``.
        start: a network of this architecture, or its plain twin, to begin from. What it lacks is fresh.
        teacher: a network whose answers are learned beside the labels, as far as the recipe says.
        statistics: mean and deviation per channel to normalise with; the images' own without them.
        teacher_input: what the teacher was trained for: batches are scaled to its size and normalised as it says.
            Without it the teacher sees what the network sees.
        follow: the curve to train along from the start: rising skip ratios [K], and each layer's own there [K, L].
        labels: class names, by which a run recognises its data.
        fit: how images became squares, for the same; images in memory do not say.
        workers: processes that decode photographs; what is trained does not depend on it. None takes what suits.
        change: made to the network before its first step, for networks that no architecture describes.

    Raises:
        LcclError: the images do not fill a batch, the folder holds a checkpoint of another recipe or one that began
            from another network or had another teacher, ``start`` is another network, a network is to be quantised
            and compiled too, or the loss or the weights are no longer finite.

    """
    if len(data.train) < recipe.batch:
        raise LcclError(f"{len(data.train)} images do not fill a batch of {recipe.batch}: take a smaller one")
    torch.manual_seed(recipe.seed)
    folder.mkdir(parents=True, exist_ok=True)
    network = _first_weights(architecture, recipe, start).to(device)
    if change is not None:
        change(network)
    statistics = statistics or channel_statistics(data.train)
    run = _new_run(architecture, network, recipe, data.train, statistics, compile_network=compile_network)
    if workers is not None:
        run = replace(run, workers=workers)
    if teacher is not None and recipe.distill:
        run = _with_teacher(run, teacher, teacher_input, compile_network)
    if follow is not None:
        run.sampler.follow(*(value.to(device) for value in follow))
    record, position = resume(folder, _new_record(architecture, data, start, teacher, run, labels, fit), run)
    for epoch in range(len(record.epochs), recipe.epochs):
        started = time.monotonic()
        if run.sampler.layers and not position.step and recipe.searches_curve(epoch):
            run.sampler.follow(*_curve(run, architecture, data.choose, report))
        figures = _train_epoch(run, data.train, epoch, position, report, partial(save, folder, record, run))
        position = Position()
        figures |= watch(run, data.choose) | {"seconds": time.monotonic() - started}
        record = replace(record, epochs=(*record.epochs, {name: round(value, 5) for name, value in figures.items()}))
        save(folder, record, run)
        report("epoch", epoch + 1, recipe.epochs, figures)
    return run.result.eval(), record


def _new_run(
    architecture: Architecture,
    network: ResNet,
    recipe: Recipe,
    split: Split,
    statistics: Statistics,
    *,
    compile_network: bool,
) -> Run:
    """A run before its first step, without a teacher."""
    device, size = network.classifier.weight.device, split.images.shape[1]
    steps = recipe.epochs * (len(split) // recipe.batch)
    macs = [layer.convolution.macs for layer in network_shape(architecture, size).layers]
    return Run(
        recipe=recipe,
        network=network,
        forward=_training_form(network, recipe, statistics, compile_network),
        optimiser=make_optimiser(network, recipe),
        sampler=ThresholdSampler(macs, device),
        statistics=statistics,
        average=WeightAverage(network, recipe.average * steps) if recipe.average else None,
        size=size,
        workers=usual_workers(device),
    )


def _train_epoch(
    run: Run, split: Split, epoch: int, position: Position, report: Report, keep: Callable[[Position], None]
) -> dict[str, float]:
    """One pass over the images, or what is left of it; returns mean loss and accuracy.

    Raises:
        LcclError: the loss or the weights are no longer finite.

    """
    recipe, device, saved = run.recipe, run.device, time.monotonic()
    steps, seen = len(split) // recipe.batch, {"loss": 0.0, "accuracy": 0.0} | dict(position.seen)
    random = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
    rounded = run.forward if isinstance(run.forward, FakeQuantised) else None
    if rounded is not None and position.scales:
        rounded.scales = {name: (scale, zero) for name, (scale, zero) in position.scales.items()}
    elif rounded is not None:
        rounded.range(_spread(split, RANGED_IMAGES).images[:])
    if position.random is not None:
        random.set_state(position.random)
    run.network.train()
    loaded = batches(split, recipe, run.statistics[0], epoch, start=position.step, workers=run.workers)
    for step, (pixels, labels) in enumerate(loaded, position.step):
        progress = (epoch + step / steps) / recipe.epochs
        for group in run.optimiser.param_groups:
            group["lr"] = recipe.lr_at(progress) * group["rate"]
        targets = torch.from_numpy(labels).to(device)
        loss, output = _forward(run, pixels, targets, progress, random)
        run.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        run.optimiser.step()
        if run.average is not None:
            run.average.update(run.network, epoch * steps + step)
        observed = round(len(labels) * recipe.exact_share) or len(labels)
        run.sampler.observe([gate[:observed] for gate in output.gates], random)
        seen["loss"] += float(loss.detach()) / steps
        seen["accuracy"] += float((output.logits.argmax(1) == targets).float().mean()) / steps
        if not np.isfinite(seen["loss"]):
            raise LcclError(f"the loss is no longer finite in epoch {epoch + 1}: lower the learning rate")
        so_far = {name: value * steps / (step + 1) for name, value in seen.items()}
        report("step", epoch * steps + step + 1, recipe.epochs * steps, so_far | {"lr": recipe.lr_at(progress)})
        if time.monotonic() - saved > SAVED_EVERY_S and step + 1 < steps:
            keep(Position(step + 1, seen, random.get_state(), rounded.scales if rounded else {}))
            saved = time.monotonic()
    if not all(bool(value.isfinite().all()) for value in run.network.state_dict().values()):
        raise LcclError(f"weights are no longer finite in epoch {epoch + 1}: lower the learning rate")
    return seen


def _forward(
    run: Run, pixels: NDArray[np.uint8], targets: Tensor, progress: float, random: torch.Generator
) -> tuple[Tensor, NetworkOutput]:
    """A batch's loss and output, under thresholds drawn for it."""
    recipe, device = run.recipe, run.device
    thresholds = run.sampler.draw(
        len(targets), recipe.exact_share, recipe.skip_range_at(progress), random, recipe.allocation, recipe.spread
    )
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        output = run.forward(normalise(pixels, run.statistics, device), thresholds)
        taught = None
        if run.teacher is not None:
            with torch.no_grad():
                taught = run.teacher(_as_taught(pixels, run)).logits
    return _loss(output, targets, recipe, taught), output


def _with_teacher(run: Run, teacher: ResNet, given: Preprocessing | None, compile_network: bool) -> Run:
    taught = teacher.to(run.device).eval()
    return replace(run, teacher=torch.compile(taught) if compile_network else taught, teacher_input=given)


def _as_taught(pixels: NDArray[np.uint8], run: Run) -> Tensor:
    """A batch as the teacher was trained to see it: smaller, it would be a worse teacher (bicubic, antialiased)."""
    given = run.teacher_input
    images = normalise(pixels, given.statistics if given else run.statistics, run.device)
    if given is None or images.shape[2] == given.size:
        return images
    return F.interpolate(images, (given.size, given.size), mode="bicubic", antialias=True)


def _first_weights(architecture: Architecture, recipe: Recipe, start: ResNet | None) -> ResNet:
    network = build(architecture)
    first_gates(network, recipe.gate_scale, recipe.gate_shift)
    if start is not None:
        own = network.state_dict()
        given = {name: value for name, value in start.state_dict().items() if not name.startswith("sidenets.")}
        fresh = [name for name in own if name not in given]
        fits = all(name in own and own[name].shape == value.shape for name, value in given.items())
        if not fits or any(".gate." not in name for name in fresh):
            raise LcclError("training cannot begin from the weights of another network")
        network.load_state_dict(own | given)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def first_gates(network: ResNet, scale: float, shift: float) -> None:
    """Let all gates that are normalised begin as ``shift`` ± ``scale``."""
    for layer in network.skip_convs.values():
        if layer.gate is not None and layer.gate.norm is not None:
            nn.init.constant_(layer.gate.norm.weight, scale)
            nn.init.constant_(layer.gate.norm.bias, shift)


def _training_form(
    network: ResNet, recipe: Recipe, statistics: Statistics, compile_network: bool
) -> Callable[[Tensor, Tensor], NetworkOutput]:
    """What runs the network in training: itself, compiled, or rounded to int8."""
    if recipe.quantize and compile_network:
        raise LcclError("a network that is quantised in training is not compiled: leave out --compile or --quantize")
    if recipe.quantize:
        return FakeQuantised(network, statistics)
    if not compile_network:
        return network
    compiled: Callable[[Tensor, Tensor], NetworkOutput] = torch.compile(
        network, dynamic=False if recipe.sizes else None
    )
    return compiled


def _curve(run: Run, architecture: Architecture, choose: Split, report: Report) -> Curve:
    """The threshold curve that calibration would find now: rising skip ratios [K], layers' shares [K, L]."""
    copy = build(architecture).eval()
    copy.load_state_dict(run.network.state_dict())
    preprocessing = Preprocessing(run.size, run.size, *run.statistics)
    values = gate_values(copy, preprocessing, choose)
    engine = _search_engine(copy, preprocessing, run)
    looked_at = choose.first(run.recipe.curve_images).loaded()
    moves = itertools.count(1)
    curve = search_thresholds(
        engine, gate_candidates(values), looked_at, LARGEST_COST, lambda _: report("search", next(moves), 0, {}),
        closing=run.recipe.closing,
    )  # fmt: skip
    rising, shares = np.maximum.accumulate(curve.skip_ratios), skipped_shares(curve, values)
    return torch.from_numpy(rising).float().to(run.device), torch.from_numpy(shares).float().to(run.device)


def _search_engine(network: ResNet, preprocessing: Preprocessing, run: Run) -> Engine:
    """In bf16, which takes half the time, where training is, too, and an engine on the CPU can."""
    threads, device = torch.get_num_threads(), str(run.device)
    if run.device.type != "cpu":
        return compile_engine(network, device, engine="reference", preprocessing=preprocessing, threads=threads)
    if run.recipe.precision == "bf16":
        with suppress(EngineError):
            return compile_engine(network, device, "bf16", preprocessing=preprocessing, threads=threads)
    return compile_engine(network, device, preprocessing=preprocessing, threads=threads)


def _loss(output: NetworkOutput, targets: Tensor, recipe: Recipe, taught: Tensor | None) -> Tensor:
    """Cross-entropy with the labels and, with a teacher, with its softened answers. Source: Hinton et al. 2015.

    It is taken in float32, whatever the network's precision.
    """
    logits = output.logits.float()
    loss = F.cross_entropy(logits, targets, label_smoothing=recipe.smoothing)
    if taught is not None and recipe.distill:
        heat = recipe.temperature
        soft, wanted = F.log_softmax(logits / heat, 1), F.softmax(taught.float() / heat, 1)
        loss = (1 - recipe.distill) * loss + recipe.distill * heat**2 * F.kl_div(soft, wanted, reduction="batchmean")
    if recipe.gate_l1 and output.gates:
        loss = loss + recipe.gate_l1 * torch.stack([gate.mean() for gate in output.gates]).mean()
    return loss


def channel_statistics(split: Split) -> Statistics:
    """Mean and standard deviation of each colour channel over a split, for values in 0..1.

    Of photographs 5,000, evenly spread over them, tell it.
    """
    total, squares = np.zeros(3), np.zeros(3)
    if isinstance(split.images, FileImages):
        split = _spread(split, STATISTICS_IMAGES)
    for images, _ in split.batches(AT_ONCE):
        for image in images:
            values = image.reshape(-1, 3) / 255.0
            total += values.mean(0)
            squares += (values**2).mean(0)
    mean = total / len(split)
    deviation = np.sqrt((squares / len(split) - mean**2).clip(0)).clip(1e-3)
    red, green, blue = (round(float(value), 5) for value in mean)
    deviations = [round(float(value), 5) for value in deviation]
    return (red, green, blue), (deviations[0], deviations[1], deviations[2])


def _spread(split: Split, count: int) -> Split:
    """So many images, or all where there are fewer, evenly spread over a split, whose order may be that of classes."""
    return split.subset(np.linspace(0, len(split) - 1, min(count, len(split))).astype(np.int64))


def make_optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD with Nesterov momentum; gates have no weight decay, which would close them.

    Each group's ``rate`` is its share of the recipe's learning rate.
    """
    trunk: list[nn.Parameter] = []
    gates: list[nn.Parameter] = []
    fresh: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        is_fresh = recipe.trunk_rate < 1 and name.startswith("classifier.")
        (gates if ".gate." in name else fresh if is_fresh else trunk).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": trunk, "rate": recipe.trunk_rate},
        {"params": gates, "rate": recipe.trunk_rate, "weight_decay": 0.0},
        {"params": fresh, "rate": 1.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=recipe.first_lr, momentum=recipe.momentum, nesterov=True, weight_decay=recipe.weight_decay,
    )  # fmt: skip


def _new_record(
    architecture: Architecture,
    data: HeldOut,
    start: ResNet | None,
    teacher: ResNet | None,
    run: Run,
    labels: Sequence[str] | None,
    fit: str | None,
) -> TrainingRecord:
    device, sizes = run.device, (len(data.train), len(data.choose), len(data.measure))
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
    }
    return TrainingRecord(
        architecture=architecture.to_json(),
        recipe=asdict(run.recipe),
        data=DataRecord(*sizes, data.digest, *run.statistics, size=run.size, fit=fit or _fit(data.train)),
        machine=machine,
        began={"start": _fingerprint(start), "teacher": _fingerprint(teacher), "labels": _joined(labels)},
    )


def _fit(split: Split) -> str:
    return split.images.preprocessing.fit if isinstance(split.images, FileImages) else "crop"


def _joined(labels: Sequence[str] | None) -> str | None:
    return None if labels is None else hashlib.sha256("\n".join(labels).encode()).hexdigest()


def _fingerprint(network: ResNet | None) -> str | None:
    """SHA-256 over a network's tensors, by which a run recognises what it began from."""
    if network is None:
        return None
    hashed = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        hashed.update(name.encode())
        hashed.update(value.cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()
