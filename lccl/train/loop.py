"""The training loop: one function that reads from top to bottom, resumable after every epoch."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lccl.calibration.search import LARGEST_COST, gate_candidates, gate_values, search_thresholds, skipped_shares
from lccl.compiler import compile_network
from lccl.data import HeldOut, Split
from lccl.errors import LcclError
from lccl.networks import Architecture, NetworkOutput, ResNet, build
from lccl.preprocessing import Preprocessing
from lccl.train.augmentation import augment
from lccl.train.recipe import Recipe
from lccl.train.thresholds import ThresholdSampler

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
Report = Callable[[str, int, int, dict[str, float]], None]
PATH_IMAGES = 400
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
) -> tuple[ResNet, dict[str, Any]]:
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
    steps = len(data.train) // recipe.batch
    if not steps:
        raise LcclError(f"{len(data.train)} images do not fill a batch of {recipe.batch}: take a smaller one")
    torch.manual_seed(recipe.seed)
    folder.mkdir(parents=True, exist_ok=True)
    network = _first_weights(architecture, recipe, start).to(device)
    began = {"start": _fingerprint(start), "teacher": _fingerprint(teacher)}
    if teacher is not None:
        teacher = teacher.to(device).eval() if recipe.distill else None
    mean, std = statistics or channel_statistics(data.train)
    normalise = Normaliser(mean, std, device)
    for_teacher = Normaliser(*(teacher_statistics or (mean, std)), device)
    sampler = ThresholdSampler(layer_macs(network), device)
    optimiser = make_optimiser(network, recipe)
    record = _new_record(architecture, recipe, data, mean, std, device) | {"began": began}
    record = _resume(folder, record, network, optimiser, sampler)
    forward = torch.compile(network) if compile_network else network

    for epoch in range(len(record["epochs"]), recipe.epochs):
        started, seen = time.monotonic(), {"loss": 0.0, "accuracy": 0.0}
        if sampler.layers and recipe.finds_path(epoch):
            sampler.follow(*_path(network, architecture, data.choose, (mean, std)))
        random = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
        network.train()
        for step, (pixels, labels) in enumerate(_batches(data.train, recipe, mean, epoch)):
            progress = (epoch + step / steps) / recipe.epochs
            for group in optimiser.param_groups:
                group["lr"] = recipe.lr_at(progress)
            thresholds = sampler.draw(
                len(labels),
                recipe.exact_share,
                recipe.skip_range_at(progress),
                random,
                recipe.allocation,
                recipe.spread,
            )
            targets = torch.from_numpy(labels).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                images = normalise(pixels)
                output = forward(images, thresholds)
                taught = None if teacher is None else _answers(teacher, for_teacher(pixels))
            loss = _loss(output, targets, recipe, taught)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            observed = round(len(labels) * recipe.exact_share) or len(labels)
            sampler.observe([gate[:observed] for gate in output.gates], random)
            seen["loss"] += float(loss.detach()) / steps
            seen["accuracy"] += float((output.logits.argmax(1) == targets).float().mean()) / steps
            if not np.isfinite(seen["loss"]):
                raise LcclError(f"the loss is no longer finite in epoch {epoch + 1}: lower the learning rate")
            report("step", epoch * steps + step + 1, recipe.epochs * steps, seen)
        if not all(bool(value.isfinite().all()) for value in network.state_dict().values()):
            raise LcclError(f"weights are no longer finite in epoch {epoch + 1}: lower the learning rate")
        figures = seen | _watch(network, data.choose, normalise, sampler, recipe)
        figures |= {"seconds": time.monotonic() - started}
        record["epochs"].append({name: round(value, 5) for name, value in figures.items()})
        _save(folder, record, network, optimiser, sampler)
        report("epoch", epoch + 1, recipe.epochs, figures)
    return network.eval(), record


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


def _path(network: ResNet, architecture: Architecture, choose: Split, statistics: Statistics) -> tuple[Tensor, Tensor]:
    """The way from exact to sparse that calibration would take now: rising skip ratios [K], layers' shares [K, L]."""
    copy = build(architecture).eval()
    copy.load_state_dict(network.state_dict())
    preprocessing = Preprocessing(copy.image_size, copy.image_size, *statistics)
    values = gate_values(copy, preprocessing, choose)
    device = next(network.parameters()).device
    name = "auto" if device.type == "cpu" else "reference"
    engine = compile_network(
        copy, str(device), engine=name, preprocessing=preprocessing, threads=torch.get_num_threads()
    )
    curve = search_thresholds(engine, gate_candidates(values), choose.first(PATH_IMAGES), LARGEST_COST)
    rising, shares = np.maximum.accumulate(curve.skip_ratios), skipped_shares(curve, values)
    return torch.from_numpy(rising).float().to(device), torch.from_numpy(shares).float().to(device)


@torch.no_grad()
def _answers(teacher: ResNet, images: Tensor) -> Tensor:
    logits: Tensor = teacher(images).logits
    return logits


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


class Normaliser:
    """uint8 [N, H, W, 3] → float32 [N, 3, H, W] on the device, with mean 0 and deviation 1 per channel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> None:
        self._mean = torch.tensor(mean, device=device)
        self._std = torch.tensor(std, device=device)

    def __call__(self, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
        images = torch.from_numpy(pixels).to(self._mean.device).float() / 255
        return ((images - self._mean) / self._std).permute(0, 3, 1, 2)


def channel_statistics(split: Split) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
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
    """SGD with Nesterov momentum; gates are spared weight decay, which would shut them."""
    gates = [p for name, p in network.named_parameters() if ".gate." in name]
    rest = [p for name, p in network.named_parameters() if ".gate." not in name]
    groups: list[dict[str, Any]] = (
        [{"params": rest}, {"params": gates, "weight_decay": 0.0}] if gates else [{"params": rest}]
    )
    return torch.optim.SGD(
        groups, lr=recipe.first_lr, momentum=recipe.momentum, nesterov=True, weight_decay=recipe.weight_decay
    )


@torch.no_grad()
def layer_macs(network: ResNet) -> list[int]:
    """Dense MACs of each SkipConv for one image, in the order of the thresholds' columns."""
    device = next(network.parameters()).device
    was_training = network.training
    size = network.image_size
    gates = network.eval()(torch.zeros(1, 3, size, size, device=device)).gates
    network.train(was_training)
    convs = [module.conv for module in network.skip_convs.values()]
    weights = [sum(weight.numel() for weight in conv.parameters() if weight.dim() == 4) for conv in convs]
    return [count * gate.shape[2] * gate.shape[3] for count, gate in zip(weights, gates, strict=True)]


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
def _watch(
    network: ResNet, split: Split, normalise: Normaliser, sampler: ThresholdSampler, recipe: Recipe
) -> dict[str, float]:
    """Accuracy and reached skip ratio, exact and at a few thresholds, on a sample of the choosing part."""
    network.eval()
    images, labels = split.images[:WATCHED_IMAGES], torch.from_numpy(split.labels[:WATCHED_IMAGES])
    macs = torch.tensor(layer_macs(network), dtype=torch.float64)
    figures: dict[str, float] = {}
    for ratio in (0.0, *WATCHED_SKIP_RATIOS) if sampler.layers else (0.0,):
        asked = torch.tensor([ratio], device=sampler.quantiles.device)
        row = sampler.shared_out(asked, recipe.allocation) * bool(ratio)
        right, skipped = 0.0, torch.zeros(sampler.layers, dtype=torch.float64)
        for start in range(0, len(images), 250):
            pixels = images[start : start + 250]
            output = network(normalise(pixels), row.expand(len(pixels), -1))
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
    recipe: Recipe,
    data: HeldOut,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
) -> dict[str, Any]:
    return {
        "architecture": architecture.to_json(),
        "recipe": asdict(recipe),
        "data": {
            "train": len(data.train),
            "choose": len(data.choose),
            "measure": len(data.measure),
            "held_out_digest": data.digest,
            "mean": list(mean),
            "std": list(std),
        },
        "machine": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "threads": torch.get_num_threads(),
        },
        "epochs": [],
    }


def _fingerprint(network: ResNet | None) -> str | None:
    """SHA-256 over a network's tensors, by which a run knows what it began from."""
    if network is None:
        return None
    found = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        found.update(name.encode())
        found.update(value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _state(network: ResNet, optimiser: torch.optim.SGD, sampler: ThresholdSampler) -> dict[str, Tensor]:
    state = {f"network.{name}": value.contiguous() for name, value in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        momentum = optimiser.state[parameter].get("momentum_buffer")
        if momentum is not None:
            state[f"momentum.{name}"] = momentum.contiguous()
    return state | {f"sampler.{name}": value for name, value in sampler.state().items()}


def _save(
    folder: Path, record: dict[str, Any], network: ResNet, optimiser: torch.optim.SGD, sampler: ThresholdSampler
) -> None:
    """Write the checkpoint beside the old one, then replace it: a crash leaves a whole checkpoint."""
    fresh = folder / "checkpoint.safetensors.new"
    save_file(_state(network, optimiser, sampler), fresh, metadata={"record": json.dumps(record)})
    fresh.replace(folder / "checkpoint.safetensors")
    (folder / "record.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _resume(
    folder: Path, fresh: dict[str, Any], network: ResNet, optimiser: torch.optim.SGD, sampler: ThresholdSampler
) -> dict[str, Any]:
    file = folder / "checkpoint.safetensors"
    if not file.is_file():
        return fresh
    from safetensors import safe_open

    with safe_open(file, "pt") as checkpoint:
        record: dict[str, Any] = json.loads(checkpoint.metadata()["record"])
    # As written before they had more fields.
    record["architecture"] = Architecture.from_json(record["architecture"]).to_json()
    record["recipe"] = asdict(Recipe()) | record["recipe"]
    record.setdefault("began", fresh["began"])
    parts = {"architecture": "architecture", "recipe": "recipe", "data": "data", "began": "start or teacher"}
    for part, name in parts.items():
        if record[part] != fresh[part]:
            raise LcclError(f"{folder} holds a checkpoint with another {name}: choose another folder or remove it")
    state = load_file(file, device=str(sampler.quantiles.device))
    network.load_state_dict({n.removeprefix("network."): v for n, v in state.items() if n.startswith("network.")})
    for name, parameter in network.named_parameters():
        if f"momentum.{name}" in state:
            optimiser.state[parameter]["momentum_buffer"] = state[f"momentum.{name}"]
    steps = len(record["epochs"]) * (record["data"]["train"] // record["recipe"]["batch"])
    sampler.restore({n.removeprefix("sampler."): v for n, v in state.items() if n.startswith("sampler.")}, steps)
    return record
