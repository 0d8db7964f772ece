"""The training loop: one function that reads from top to bottom, resumable after every epoch."""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lccl.bundle.training_record import DataRecord, TrainingRecord
from lccl.calibration.search import LARGEST_COST, gate_candidates, gate_values, search_thresholds, skipped_shares
from lccl.compiler import compile_network
from lccl.data import HeldOut, Split
from lccl.errors import LcclError
from lccl.networks import Architecture, NetworkOutput, ResNet, build
from lccl.networks.inputs import normalise
from lccl.networks.lowering import network_shape
from lccl.preprocessing import Preprocessing, Statistics
from lccl.train.augmentation import augment
from lccl.train.recipe import Recipe
from lccl.train.thresholds import ThresholdSampler

Report = Callable[[str, int, int, dict[str, float]], None]
CURVE_IMAGES = 400
WATCHED_SKIP_RATIOS = (0.3, 0.45, 0.6)
WATCHED_IMAGES = 1000


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
    teacher_statistics: Statistics | None = None,
) -> tuple[ResNet, TrainingRecord]:
    """Train a network and return it with the run's record; continue where ``folder`` holds a checkpoint.

    Args:
        data: images to train on; progress is watched on the part that also chooses thresholds.
        folder: where ``checkpoint.safetensors`` and ``record.json`` are kept, written after each epoch.
        report: called as ``report("step" | "epoch", done, of, figures)``.
        start: a network of this architecture, or its plain twin, whose weights training begins from. What it lacks
            is fresh.
        teacher: a network whose answers are learned beside the labels, as far as the recipe says.
        statistics: mean and deviation per channel to normalise with; the images' own without them.
        teacher_statistics: what the teacher's input is normalised with; the network's without them.

    Raises:
        LcclError: the images do not fill a batch, the folder holds a checkpoint of another recipe or one that began
            from another network or had another teacher, ``start`` is another network, or the loss or the weights are
            no longer finite.

    """
    if len(data.train) < recipe.batch:
        raise LcclError(f"{len(data.train)} images do not fill a batch of {recipe.batch}: take a smaller one")
    torch.manual_seed(recipe.seed)
    folder.mkdir(parents=True, exist_ok=True)
    network = _first_weights(architecture, recipe, start).to(device)
    statistics = statistics or channel_statistics(data.train)
    layers = network_shape(architecture, network.image_size).layers
    run = _Run(
        recipe=recipe,
        network=network,
        forward=torch.compile(network) if compile_network else network,
        optimiser=make_optimiser(network, recipe),
        sampler=ThresholdSampler([layer.convolution.macs for layer in layers], device),
        statistics=statistics,
        teacher=teacher.to(device).eval() if teacher is not None and recipe.distill else None,
        teacher_statistics=teacher_statistics or statistics,
    )
    record = _resume(folder, _new_record(architecture, data, start, teacher, run), run)
    for epoch in range(len(record.epochs), recipe.epochs):
        started = time.monotonic()
        if run.sampler.layers and recipe.searches_curve(epoch):
            run.sampler.follow(*_curve(run, architecture, data.choose))
        figures = _train_epoch(run, data.train, epoch, report)
        figures |= _watch(run, data.choose) | {"seconds": time.monotonic() - started}
        record = replace(record, epochs=(*record.epochs, {name: round(value, 5) for name, value in figures.items()}))
        _save(folder, record, run)
        report("epoch", epoch + 1, recipe.epochs, figures)
    return network.eval(), record


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """What a run keeps from epoch to epoch."""

    recipe: Recipe
    network: ResNet
    forward: Callable[[Tensor, Tensor], NetworkOutput]
    optimiser: torch.optim.SGD
    sampler: ThresholdSampler
    statistics: Statistics
    teacher: ResNet | None
    teacher_statistics: Statistics

    @property
    def device(self) -> torch.device:
        return self.sampler.quantiles.device


def _train_epoch(run: _Run, split: Split, epoch: int, report: Report) -> dict[str, float]:
    """One pass over the images; returns mean loss and accuracy, and reports them of the images so far.

    Raises:
        LcclError: the loss or the weights are no longer finite.

    """
    recipe, device = run.recipe, run.device
    steps, images, total, right = len(split) // recipe.batch, 0, 0.0, 0
    seen: dict[str, float] = {}
    random = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
    run.network.train()
    for step, (pixels, labels) in enumerate(_batches(split, recipe, run.statistics[0], epoch)):
        progress = (epoch + step / steps) / recipe.epochs
        for group in run.optimiser.param_groups:
            group["lr"] = recipe.lr_at(progress)
        thresholds = run.sampler.draw(
            len(labels), recipe.exact_share, recipe.skip_range_at(progress), random, recipe.allocation, recipe.spread
        )
        targets = torch.from_numpy(labels).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            output = run.forward(normalise(pixels, run.statistics, device), thresholds)
            taught = None
            if run.teacher is not None:
                with torch.no_grad():
                    taught = run.teacher(normalise(pixels, run.teacher_statistics, device)).logits
        loss = _loss(output, targets, recipe, taught)
        run.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        run.optimiser.step()
        observed = round(len(labels) * recipe.exact_share) or len(labels)
        run.sampler.observe([gate[:observed] for gate in output.gates], random)
        images += len(labels)
        total += len(labels) * float(loss.detach())
        right += int((output.logits.argmax(1) == targets).sum())
        seen = {"loss": total / images, "accuracy": right / images}
        if not np.isfinite(seen["loss"]):
            raise LcclError(f"the loss is no longer finite in epoch {epoch + 1}: lower the learning rate")
        report("step", epoch * steps + step + 1, recipe.epochs * steps, seen)
    if not all(bool(value.isfinite().all()) for value in run.network.state_dict().values()):
        raise LcclError(f"weights are no longer finite in epoch {epoch + 1}: lower the learning rate")
    return seen


def _first_weights(architecture: Architecture, recipe: Recipe, start: ResNet | None) -> ResNet:
    network = build(architecture)
    for layer in network.skip_convs.values():
        if layer.gate is not None and layer.gate.norm is not None:
            nn.init.constant_(layer.gate.norm.weight, recipe.gate_scale)
            nn.init.constant_(layer.gate.norm.bias, recipe.gate_shift)
    if start is not None:
        own = network.state_dict()
        given = {name: value for name, value in start.state_dict().items() if not name.startswith("sidenets.")}
        fresh = [name for name in own if name not in given]
        fits = all(name in own and own[name].shape == value.shape for name, value in given.items())
        if not fits or any(".gate." not in name for name in fresh):
            raise LcclError("training cannot begin from the weights of another network")
        network.load_state_dict(own | given)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _curve(run: _Run, architecture: Architecture, choose: Split) -> tuple[Tensor, Tensor]:
    """The threshold curve that calibration would find now: rising skip ratios [K], layers' shares [K, L]."""
    copy = build(architecture).eval()
    copy.load_state_dict(run.network.state_dict())
    preprocessing = Preprocessing(copy.image_size, copy.image_size, *run.statistics)
    values = gate_values(copy, preprocessing, choose)
    name = "auto" if run.device.type == "cpu" else "reference"
    engine = compile_network(
        copy, str(run.device), engine=name, preprocessing=preprocessing, threads=torch.get_num_threads()
    )
    curve = search_thresholds(engine, gate_candidates(values), choose.first(CURVE_IMAGES), LARGEST_COST)
    rising, shares = np.maximum.accumulate(curve.skip_ratios), skipped_shares(curve, values)
    return torch.from_numpy(rising).float().to(run.device), torch.from_numpy(shares).float().to(run.device)


def _loss(output: NetworkOutput, targets: Tensor, recipe: Recipe, taught: Tensor | None) -> Tensor:
    """Cross-entropy with the labels and, with a teacher, with its softened answers. Source: Hinton et al. 2015.

    It is taken in float32, whatever the network's precision.
    """
    logits = output.logits.float()
    loss = F.cross_entropy(logits, targets)
    if taught is not None and recipe.distill:
        heat = recipe.temperature
        soft, wanted = F.log_softmax(logits / heat, 1), F.softmax(taught.float() / heat, 1)
        loss = (1 - recipe.distill) * loss + recipe.distill * heat**2 * F.kl_div(soft, wanted, reduction="batchmean")
    if recipe.gate_l1 and output.gates:
        loss = loss + recipe.gate_l1 * torch.stack([gate.mean() for gate in output.gates]).mean()
    return loss


def channel_statistics(split: Split) -> Statistics:
    """Mean and standard deviation of each colour channel over a split, for values in 0..1."""
    total, squares = np.zeros(3), np.zeros(3)
    for image in split.images:
        values = image.reshape(-1, 3) / 255.0
        total += values.mean(0)
        squares += (values**2).mean(0)
    mean = total / len(split)
    deviation = np.sqrt((squares / len(split) - mean**2).clip(0)).clip(1e-3)
    red, green, blue = (round(float(value), 5) for value in mean)
    deviations = [round(float(value), 5) for value in deviation]
    return (red, green, blue), (deviations[0], deviations[1], deviations[2])


def make_optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD with Nesterov momentum; gates have no weight decay, which would close them."""
    gates = [p for name, p in network.named_parameters() if ".gate." in name]
    rest = [p for name, p in network.named_parameters() if ".gate." not in name]
    groups: list[dict[str, Any]] = [{"params": rest}, *([{"params": gates, "weight_decay": 0.0}] if gates else [])]
    return torch.optim.SGD(
        groups, lr=recipe.first_lr, momentum=recipe.momentum, nesterov=True, weight_decay=recipe.weight_decay
    )


def _batches(
    split: Split, recipe: Recipe, mean: tuple[float, ...], epoch: int
) -> Iterator[tuple[np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, np.dtype[np.int64]]]]:
    random = np.random.default_rng([recipe.seed, epoch])
    order = random.permutation(len(split))
    fill = np.round(np.array(mean) * 255).astype(np.uint8)
    for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
        index = order[start : start + recipe.batch]
        yield augment(split.images[index], fill, random), split.labels[index]


@torch.no_grad()
def _watch(run: _Run, split: Split) -> dict[str, float]:
    """Accuracy and reached skip ratio, exact and at a few thresholds, on a sample of the choosing part."""
    run.network.eval()
    sampler, macs = run.sampler, run.sampler.macs.double().cpu()
    images, labels = split.images[:WATCHED_IMAGES], torch.from_numpy(split.labels[:WATCHED_IMAGES])
    figures: dict[str, float] = {}
    for ratio in (0.0, *WATCHED_SKIP_RATIOS) if sampler.layers else (0.0,):
        asked = torch.tensor([ratio], device=run.device)
        row = sampler.shared_out(asked, run.recipe.allocation) * bool(ratio)
        right, skipped = 0.0, torch.zeros(sampler.layers, dtype=torch.float64)
        for start in range(0, len(images), 250):
            pixels = images[start : start + 250]
            output = run.network(normalise(pixels, run.statistics, run.device), row.expand(len(pixels), -1))
            right += float((output.logits.argmax(1).cpu() == labels[start : start + 250]).sum())
            if output.gates:
                pairs = zip(output.gates, row[0], strict=True)
                shares = torch.stack([(gate <= threshold).double().mean() for gate, threshold in pairs]).cpu()
                skipped += shares * len(pixels) / len(images)
        figures[f"watched_accuracy_{ratio:g}"] = right / max(1, len(images))
        if sampler.layers:
            figures[f"watched_skip_{ratio:g}"] = float(skipped @ macs / macs.sum())
            figures[f"watched_dead_{ratio:g}"] = float((skipped > 0.98).sum())
    return figures


def _new_record(
    architecture: Architecture,
    data: HeldOut,
    start: ResNet | None,
    teacher: ResNet | None,
    run: _Run,
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
        data=DataRecord(*sizes, data.digest, *run.statistics),
        machine=machine,
        began={"start": _fingerprint(start), "teacher": _fingerprint(teacher)},
    )


def _fingerprint(network: ResNet | None) -> str | None:
    """SHA-256 over a network's tensors, by which a run recognises what it began from."""
    if network is None:
        return None
    hashed = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        hashed.update(name.encode())
        hashed.update(value.cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()


def _save(folder: Path, record: TrainingRecord, run: _Run) -> None:
    """Write the checkpoint beside the old one, then replace it: a crash leaves a whole checkpoint."""
    state = {f"network.{name}": value.contiguous() for name, value in run.network.state_dict().items()}
    for name, parameter in run.network.named_parameters():
        momentum = run.optimiser.state[parameter].get("momentum_buffer")
        if momentum is not None:
            state[f"momentum.{name}"] = momentum.contiguous()
    state |= {f"sampler.{name}": value for name, value in run.sampler.state().items()}
    fresh = folder / "checkpoint.safetensors.new"
    save_file(state, fresh, metadata={"record": json.dumps(record.to_json())})
    fresh.replace(folder / "checkpoint.safetensors")
    (folder / "record.json").write_text(json.dumps(record.to_json(), indent=1) + "\n", encoding="utf-8")


def _resume(folder: Path, fresh: TrainingRecord, run: _Run) -> TrainingRecord:
    """Set a run to its checkpoint, if it has one, and return the record so far."""
    file = folder / "checkpoint.safetensors"
    if not file.is_file():
        return fresh
    with safe_open(file, "pt") as checkpoint:
        record = TrainingRecord.from_json(json.loads(checkpoint.metadata()["record"]))
    # What was written before a part had all of its fields is completed with what they then were.
    record = replace(
        record,
        architecture=Architecture.from_json(record.architecture).to_json(),
        recipe=asdict(Recipe()) | dict(record.recipe or {}),
        began=record.began or fresh.began,
    )
    named = {"architecture": "architecture", "recipe": "recipe", "data": "data", "began": "start or teacher"}
    for part, name in named.items():
        if getattr(record, part) != getattr(fresh, part):
            raise LcclError(f"{folder} holds a checkpoint with another {name}: choose another folder or remove it")
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "momentum": {}, "sampler": {}}
    for name, value in load_file(file, device=str(run.device)).items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    run.network.load_state_dict(parts["network"])
    for name, parameter in run.network.named_parameters():
        if name in parts["momentum"]:
            run.optimiser.state[parameter]["momentum_buffer"] = parts["momentum"][name]
    assert fresh.data is not None
    run.sampler.restore(parts["sampler"], len(record.epochs) * (fresh.data.train // run.recipe.batch))
    return record
