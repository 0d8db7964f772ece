"""What a training run is made of, and its learning-rate schedule."""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from lccl.calibration.search import Closing
from lccl.errors import LcclError, require
from lccl.train.thresholds import Allocation

Augmentation = Literal["shifts", "crops"]
SIZE_STEP = 32


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of one run; the defaults are for a network from fresh weights.

    Attributes:
        warm_up: share of the run in which the learning rate rises from ``first_lr`` to ``lr``; gates
            that meet a high rate at once die or open for good.
        skip_from: share of the run after which images train under thresholds; the range of skip
            ratios they are drawn from grows to ``skip_top`` over ``skip_ramp`` of the run, and starts at
            ``skip_bottom`` once it reaches there; where both are the same, the network trains for that ratio alone.
        exact_share: share of the images of a batch that always run exactly.
        allocation: how a wanted skip ratio is shared out among the layers
            (:class:`lccl.train.thresholds.ThresholdSampler`), and the ``spread`` of its random kind.
        path_from, path_every: with the allocation ``path``: share of the run after which the threshold curve is
            searched for, and shares after which it is searched for again.
        gate_scale, gate_shift: where a fresh gate's normalisation starts: ``gate_shift`` ± ``gate_scale``. From
            1 ± 0.1 the network starts nearly as its plain twin. From a wider start large values are multiplied by large
            ones in every layer, until a few positions outweigh all others (``benchmarks.paper.start``); a gate that
            starts closed gets no gradient.
        distill: weight of the teacher's answers against the labels, where there is a teacher.
        temperature: by which both networks' logits are divided when the teacher's answers are matched.
        gate_l1: weight of the mean gate value in the loss; the paper's "regularisation" of gates without normalisation.
        quantize: whether maps and weights are rounded to int8 in the forward pass
            (:mod:`lccl.train.fake_quantization`).
        augmentation: ``shifts`` by up to an eighth of the size, or ``crops``: random parts of the image, of at least
            ``crop_area`` of it and up to ``crop_ratio`` times as wide as high or as high as wide, scaled to the
            network's input; both flip every other image.
        smoothing: share of the labels that is spread over all classes.
        average: share of the run over which weights are averaged, exponentially; what is watched and saved is the
            average. 0 takes the weights as they are.
        sizes: pixels a side of the images to train on, else the network's input: ``128:160`` grows in steps of 32 until
            ``grown`` of the run is over, ``96,128,160`` draws one for each batch. The last is the network's input.
        trunk_rate: learning rate of everything but the classifier, as a share: for a trained network with a fresh
            classifier.
        curve_images: images of the choosing part on which the curve is searched for.
        closing: when the search may close layers (:func:`lccl.calibration.search.search_thresholds`).

    """

    epochs: int = 20
    batch: int = 128
    lr: float = 0.1
    first_lr: float = 0.005
    warm_up: float = 0.25
    momentum: float = 0.9
    weight_decay: float = 5e-4
    skip_from: float = 0.3
    skip_ramp: float = 0.2
    skip_top: float = 0.75
    skip_bottom: float = 0.0
    exact_share: float = 0.3
    allocation: Allocation = "path"
    spread: float = 1.0
    path_from: float = 0.4
    path_every: float = 0.2
    gate_scale: float = 0.1
    gate_shift: float = 1.0
    distill: float = 0.7
    temperature: float = 4.0
    gate_l1: float = 0.0
    augmentation: Augmentation = "shifts"
    crop_area: float = 0.35
    crop_ratio: float = 4 / 3
    smoothing: float = 0.0
    average: float = 0.0
    sizes: str = ""
    grown: float = 0.6
    trunk_rate: float = 1.0
    curve_images: int = 400
    closing: Closing = "blocks"
    seed: int = 0
    precision: str = "fp32"
    quantize: bool = False

    def __post_init__(self) -> None:
        kinds = get_args(Allocation)
        require(
            LcclError,
            (
                self.epochs >= 1 and self.batch >= 2,
                "training needs at least one epoch and batches of at least two images",
            ),
            (
                self.lr > 0 and self.first_lr > 0 and 0 <= self.skip_bottom <= self.skip_top < 1,
                "training needs positive learning rates, and skip_bottom up to skip_top, which is below 1",
            ),
            (0 <= self.exact_share <= 1, "training needs exact_share in 0..1"),
            (self.allocation in kinds, f"unknown allocation {self.allocation!r}: use one of {', '.join(kinds)}"),
            (
                0 <= self.distill <= 1 and self.temperature > 0 and self.gate_l1 >= 0 and self.spread >= 0,
                "training needs distill in 0..1, a positive temperature, and gate_l1 and spread from 0 on",
            ),
            (
                self.path_every > 0 and 0 <= self.path_from <= 1,
                "training needs path_from in 0..1 and a positive path_every",
            ),
            (
                self.augmentation in get_args(Augmentation) and 0 < self.crop_area <= 1 <= self.crop_ratio,
                "training needs augmentation shifts or crops, crop_area in 0..1 and crop_ratio from 1 on",
            ),
            (
                0 <= self.smoothing < 1
                and 0 <= self.average <= 1
                and 0 < self.trunk_rate <= 1
                and self.curve_images >= 1,
                "training needs smoothing below 1, average in 0..1, trunk_rate above 0 up to 1, and curve_images",
            ),
            (0 < self.grown <= 1, "training needs grown above 0 up to 1"),
            (
                self.closing in get_args(Closing),
                f"unknown closing {self.closing!r}: use one of {', '.join(get_args(Closing))}",
            ),
            (
                not self.sizes or self.augmentation == "crops",
                "only photographs are trained on at several sizes: take one",
            ),
            (
                self.precision in ("fp32", "bf16"),
                f"unknown training precision {self.precision!r}: use fp32 or bf16",
            ),
        )

    def lr_at(self, progress: float) -> float:
        """Learning rate at ``progress`` (0..1) of the run: linear rise, then half a cosine down to 0."""
        if progress < self.warm_up:
            return self.first_lr + (self.lr - self.first_lr) * progress / self.warm_up
        return self.lr * 0.5 * (1 + math.cos(math.pi * (progress - self.warm_up) / (1 - self.warm_up)))

    def size_at(self, epoch: int, size: int, random: np.random.Generator) -> int:
        """Pixels a side of a batch in an epoch (from 0 on), where the network's input has ``size``."""
        if "," in self.sizes:
            return int(random.choice(read_sizes(self.sizes)))
        if not self.sizes or epoch >= self.grown * self.epochs:
            return size
        first = read_sizes(self.sizes)[0]
        steps = (size - first) / SIZE_STEP * epoch / (self.grown * self.epochs)
        return first + SIZE_STEP * math.floor(steps + 1e-9)

    def searches_curve(self, epoch: int) -> bool:
        """Whether the threshold curve is searched for before this epoch (from 0 on)."""
        if self.allocation != "path" or epoch / self.epochs < self.path_from:
            return False
        before = math.floor(((epoch - 1) / self.epochs - self.path_from) / self.path_every + 1e-9)
        return math.floor((epoch / self.epochs - self.path_from) / self.path_every + 1e-9) > before

    def skip_range_at(self, progress: float) -> tuple[float, float]:
        """Smallest and largest skip ratio that an image may be asked for at ``progress`` (0..1) of the run."""
        ramp = (progress - self.skip_from) / self.skip_ramp if self.skip_ramp else float(progress >= self.skip_from)
        top = self.skip_top * min(1.0, max(0.0, ramp))
        return min(self.skip_bottom, top), top


def read_sizes(text: str) -> list[int]:
    """The numbers of ``160``, ``128:160`` or ``96,128,160``, which rise.

    Raises:
        LcclError: anything else.

    """
    try:
        sizes = [int(part) for part in text.replace(":", ",").split(",")]
    except ValueError:
        sizes = []
    if not sizes or sizes != sorted(set(sizes)) or (":" in text and ("," in text or len(sizes) != 2)):
        raise LcclError(f"--size {text} is not readable: give 160, 128:160 to grow, or 96,128,160 to draw from")
    return sizes


PHOTOGRAPHS = Recipe(
    epochs=40, batch=64, lr=0.05, warm_up=0.15, augmentation="crops", smoothing=0.1, average=0.05, curve_images=64
)


def continued(recipe: Recipe) -> Recipe:
    """The recipe for a network that skips already and is trained further: no slow start, all of the range at once."""
    return replace(
        recipe, first_lr=recipe.lr / 4, warm_up=0.05, skip_from=0.0, skip_ramp=0.0, path_from=0.0, path_every=0.25
    )


def attached(recipe: Recipe) -> Recipe:
    """The recipe for a trained plain network with fresh gates: these learn for a while before much is skipped.

    They begin close to 1, as what they multiply was learned without them.
    """
    return replace(
        recipe, first_lr=recipe.lr / 5, warm_up=0.1, skip_from=0.0, skip_ramp=0.3, path_from=0.25, path_every=0.25,
        gate_scale=0.05,
    )  # fmt: skip


def tuned(recipe: Recipe) -> Recipe:
    """The recipe for a trained network with a fresh classifier, for other classes: its trunk changes slowly.

    Thresholds lie along the curve that it had for its former classes.
    """
    return replace(
        recipe, first_lr=recipe.lr / 5, warm_up=0.1, skip_from=0.0, skip_ramp=0.3, path_from=1.0, trunk_rate=0.1
    )
