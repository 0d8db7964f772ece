"""Fits SideNets to a trained network, which stays as it is, and measures how well confidences match accuracies."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lccl.bundle.format import Bundle
from lccl.bundle.training_record import AnswerRecord, SideNetsRecord
from lccl.calibration.table import build_table
from lccl.compiler import compile_network
from lccl.data import HeldOut, Split
from lccl.errors import LcclError, require
from lccl.networks import ResNet
from lccl.networks.inputs import images_at_once, normalise
from lccl.networks.sidenet import SideNetSpec
from lccl.operating_points import OperatingPointTable
from lccl.plan.geometry import NetworkShape
from lccl.plan.run import NEVER, Setting
from lccl.preprocessing import Preprocessing
from lccl.train.augmentation import augment
from lccl.train.reliability import expected_calibration_error, fit_temperature, reliability, risk_coverage, softmax

Report = Callable[[str, int, int, dict[str, float]], None]
FIRST_LOOK = 2048
SMALLEST_DEVIATION = 1e-3
BATCH_IN_EVALUATION = 250


@dataclass(frozen=True, slots=True)
class SideNetRecipe:
    """Settings of one fit.

    Attributes:
        lr: highest learning rate, of AdamW; it rises over a tenth of the run and falls to 0 along half a cosine.
        exact_share: share of the images that run through an exact trunk. The others run under the thresholds of
            operating points drawn at random, so that the SideNets learn from features as skipping leaves them.

    """

    epochs: int = 5
    batch: int = 256
    lr: float = 3e-3
    weight_decay: float = 1e-2
    exact_share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            LcclError,
            (
                self.epochs >= 1 and self.batch >= 2,
                "training needs at least one epoch and batches of at least two images",
            ),
            (0 < self.lr <= 1, f"a learning rate lies above 0 and is at most 1, not {self.lr}"),
        )


def usual_blocks(network: ResNet) -> list[int]:
    """Blocks to put SideNets after: the ends of all stages but the last, a third and two thirds of that one."""
    widths = network.block_channels
    ends = [number for number in range(len(widths) - 1) if widths[number] != widths[number + 1]]
    first = ends[-1] + 1 if ends else 0
    inner = {first - 1 + round(third * (len(widths) - first) / 3) for third in (1, 2)}
    return sorted({*ends, *inner} - {len(widths) - 1, -1})


def fit_sidenets(
    bundle: Bundle,
    specs: Sequence[SideNetSpec],
    data: HeldOut,
    recipe: SideNetRecipe,
    report: Report,
    engine: str = "auto",
    threads: int = 0,
) -> Bundle:
    """Return the bundle with SideNets beside its network, whose classes without early exits stay the same.

    Temperatures are fitted on ``data.choose``; all that is stated of the exits is measured on ``data.measure``. No
    image leaves early at the operating points, which are measured again; where they used exits before, only exact is
    left. ``lccl calibrate`` finds better ones.

    Args:
        report: called as ``report("step" | "epoch", done, of, figures)``.
        engine: what measures, as ``lccl.compile`` takes it, and ``threads``.

    Raises:
        DataError: the data is not what the bundle was made from.
        ArchitectureError: the SideNets do not fit the network.
        EngineError: there is no such engine here, or it cannot run this network.
        LcclError: no SideNets were asked for, or the loss or an answer on a held-out image is not finite.

    """
    bundle.check_held_out(data.digest)
    if not specs:
        raise LcclError("a network this short has no usual blocks for SideNets: say after which ones")
    began = time.perf_counter()
    torch.manual_seed(recipe.seed)
    network = copy.deepcopy(bundle.network).eval().requires_grad_(False)
    network.add_sidenets(specs)
    compiled = partial(compile_network, precision="fp32", engine=engine, threads=threads)
    shape = compiled(replace(bundle, network=network)).shape  # refuses now, not after training
    _fit(network, bundle, data.train, recipe, report)
    network.sidenets.requires_grad_(False)
    seconds = time.perf_counter() - began
    *exits, end = _set_temperatures(network, bundle.preprocessing, data, shape)
    record = SideNetsRecord(asdict(recipe), len(data.train), round(seconds, 1), len(data.measure), tuple(exits), end)
    fitted = replace(
        bundle, network=network, training=replace(bundle.training, sidenets=record),
        calibration={}, self_test={}, int8=None, digest="",
    )  # fmt: skip
    used = any(confidence < NEVER for point in bundle.table.points for confidence in point.setting.exit_confidence)
    never = (NEVER,) * len(network.sidenets)
    settings = {
        str(point.name): Setting(point.setting.thresholds, never) for point in bundle.table.points[1:] if not used
    }
    table, _ = build_table(compiled(fitted), data, settings)
    return replace(fitted, table=table, calibration={} if used else _still_true(bundle.calibration, table))


def _still_true(calibration: Mapping[str, Any], table: OperatingPointTable) -> dict[str, Any]:
    """What calibration recorded of the gates at the remaining points; which exits answered no longer holds."""
    if not calibration:
        return {}
    recorded = calibration["skip_ratio_mean_std"]
    return {
        "layers": calibration["layers"],
        "skip_ratio_mean_std": {point.name: recorded[point.name] for point in table.points},
    }


def _fit(network: ResNet, bundle: Bundle, split: Split, recipe: SideNetRecipe, report: Report) -> None:
    sides, random = list(network.sidenets), np.random.default_rng(recipe.seed)
    looked_at = split.subset(random.permutation(len(split))[:FIRST_LOOK])
    looks = _first_look(network, bundle.preprocessing, looked_at)
    centres = [(features.mean(0), features.std(0) + SMALLEST_DEVIATION) for features in looks]  # none is blown up
    parameters = [parameter for side in sides for parameter in side.parameters()]
    optimiser = torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay)
    steps = -(-len(split) // recipe.batch)
    total_steps = recipe.epochs * steps
    # A rise of a single step out of ten would be divided by 0.
    rise = 0.1 if total_steps != 10 else 0.2
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.lr, total_steps=total_steps, pct_start=rise)
    for epoch in range(recipe.epochs):
        right, total, images = np.zeros(len(sides)), 0.0, 0
        for number, (features, labels) in enumerate(_batches(network, bundle, split, recipe, random), 1):
            logits = [
                side.classify((value - mean) / deviation)
                for side, value, (mean, deviation) in zip(sides, features, centres, strict=True)
            ]
            loss = torch.stack([F.cross_entropy(each, labels) for each in logits]).sum()
            if not torch.isfinite(loss):
                raise LcclError(f"the loss is no longer finite in epoch {epoch + 1}: lower the learning rate")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            images += len(labels)
            total += len(labels) * loss.item()
            right += [int((each.argmax(1) == labels).sum()) for each in logits]
            report("step", epoch * steps + number, total_steps, {"loss": total / images})
        shares = (right / len(split)).tolist()
        figures = {f"accuracy_{side.spec.after}": share for side, share in zip(sides, shares, strict=True)}
        report("epoch", epoch + 1, recipe.epochs, {"loss": total / images} | figures)
    # The hidden layers were trained on centred features; from now on they read them as they are.
    with torch.no_grad():
        for side, (mean, deviation) in zip(sides, centres, strict=True):
            side.hidden.weight.div_(deviation)
            side.hidden.bias.sub_(side.hidden.weight @ mean)


def _batches(
    network: ResNet, bundle: Bundle, split: Split, recipe: SideNetRecipe, random: np.random.Generator
) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """An epoch of shifted and flipped images: what each SideNet reads of them, and their labels."""
    fill = (np.array(bundle.preprocessing.mean) * 255).round().astype(np.uint8)
    rows = np.array([point.setting.thresholds for point in bundle.table.points], dtype=np.float32)
    order = random.permutation(len(split))
    for start in range(0, len(order), recipe.batch):
        taken = order[start : start + recipe.batch]
        thresholds = rows[random.integers(0, len(rows), len(taken))]
        thresholds[random.random(len(taken)) < recipe.exact_share] = 0
        images = normalise(augment(split.images[taken], fill, random), bundle.preprocessing.statistics)
        with torch.no_grad():
            features = network.with_features(images, torch.from_numpy(thresholds) if rows.shape[1] else None)[1]
        yield features, torch.from_numpy(split.labels[taken])


def _first_look(network: ResNet, preprocessing: Preprocessing, split: Split) -> list[Tensor]:
    """What each SideNet reads of these images, [images, C · grid²] each."""
    read = [features for _, features in _passes(network, preprocessing, split)]
    return [torch.cat(parts) for parts in zip(*read, strict=True)]


def _set_temperatures(
    network: ResNet, preprocessing: Preprocessing, data: HeldOut, shape: NetworkShape
) -> list[AnswerRecord]:
    """Give every answer, the network's own last, its temperature; returns what each is worth."""
    chosen, measured = (_logits(network, preprocessing, split) for split in (data.choose, data.measure))
    temperatures = [fit_temperature(logits, data.choose.labels) for logits in chosen]
    answers = [
        _answer(logits, data.measure.labels, temperature)
        for logits, temperature in zip(measured, temperatures, strict=True)
    ]
    for number, side in enumerate(network.sidenets):
        side.temperature.fill_(temperatures[number])
        answers[number] = replace(answers[number], after=side.spec.after, macs=shape.exits[number].macs)
    assert network.sidenets.temperature is not None
    network.sidenets.temperature.fill_(temperatures[-1])
    return answers


def _answer(logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float) -> AnswerRecord:
    right = logits.argmax(1) == labels
    before, after = softmax(logits).max(1), softmax(logits, temperature).max(1)
    return AnswerRecord(
        temperature=temperature,
        accuracy=float(right.mean()),
        calibration_error_before=expected_calibration_error(before, right),
        calibration_error=expected_calibration_error(after, right),
        reliability=reliability(after, right),
        risk_coverage=risk_coverage(after, right),
    )


def _logits(network: ResNet, preprocessing: Preprocessing, split: Split) -> list[NDArray[np.floating]]:
    """Each SideNet's logits of every image, and the network's own last, [N, classes] each, at temperature 1."""
    parts = []
    for own, features in _passes(network, preprocessing, split):
        with torch.no_grad():
            sides = [side.classify(value) for side, value in zip(network.sidenets, features, strict=True)]
        parts.append([*sides, own])
    answers = [torch.cat(logits).numpy() for logits in zip(*parts, strict=True)]
    if not all(np.isfinite(logits).all() for logits in answers):
        raise LcclError("answers on held-out images are not finite: train the network longer before its SideNets")
    return answers


def _passes(network: ResNet, preprocessing: Preprocessing, split: Split) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
    """Batch by batch the network's own logits at exact, and what each SideNet reads."""
    for pixels, _ in split.batches(images_at_once(preprocessing.size, BATCH_IN_EVALUATION)):
        with torch.no_grad():
            output, features = network.with_features(normalise(pixels, preprocessing.statistics))
        yield output.logits, features
