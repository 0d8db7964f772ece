"""The contract that every engine keeps, and the checks that all of them share."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lccl.errors import InputError
from lccl.plan.geometry import NetworkShape
from lccl.plan.run import RunOptions, RunOutput
from lccl.plan.steps import Plan

Images = NDArray[np.uint8] | NDArray[np.floating[Any]]


class Engine(Protocol):
    """Runs one plan on one device.

    Attributes:
        name: ``reference``, ``cpu`` or ``cuda``, as model metadata shows it.
        precision: the arithmetic of the convolutions.
        experimental: its tests have not passed on a device of this model.
        batch_limit: the batch beyond which throughput no longer rises.
        streams: how many calls that share the device run at once; further ones wait.
        plan: what it runs.
        shape: the plan's geometry, which turns kept cells into MACs.

    """

    name: str
    precision: str
    experimental: bool
    batch_limit: int
    streams: int
    plan: Plan
    shape: NetworkShape

    def run(self, images: Images, options: RunOptions, *, sharing: bool = False) -> RunOutput:
        """Run a batch.

        Args:
            images: uint8 [N, H, W, 3], or floating [N, H, W, 3], already normalised and finite.
            options: one row per image.
            sharing: take a stream's part of the device, since other calls use it too, and not all of it.

        Raises:
            InputError: shapes, types or values do not fit the plan.

        """
        ...


def checked_images(
    plan: Plan, images: Images, options: RunOptions, floating: type[np.floating[Any]] = np.float32
) -> Images:
    """Refuse what does not fit the plan, and return the images as an engine computes with them.

    Args:
        floating: the type that normalised images get; in it they must be finite.

    Raises:
        InputError: a shape, type or value is off.

    """
    if np.issubdtype(images.dtype, np.floating):
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            images = images.astype(floating, copy=False)
    for complaint in _complaints(plan, images, options):
        raise InputError(complaint)
    return images


def _complaints(plan: Plan, images: Images, options: RunOptions) -> Iterator[str]:
    """What does not fit, in sentences that are made only where something is wrong: this runs with every batch."""
    image, count, layers = plan.image, len(images), len(plan.layers)
    thresholds, exits, forced = options.thresholds, options.exit_confidence, options.forced_masks
    if not count or images.shape[1:] != (image.height, image.width, image.channels):
        yield f"images must be [N, {image.height}, {image.width}, {image.channels}], not {images.shape}"
    if images.dtype != np.uint8:
        if not np.issubdtype(images.dtype, np.floating):
            yield f"images must be uint8 or floating, not {images.dtype}"
        if not np.isfinite(images).all():
            yield f"normalised images must be finite as {images.dtype}"
    if thresholds.shape != (count, layers):
        yield f"options.thresholds must be {[count, layers]}, not {list(thresholds.shape)}"
    if exits.shape not in ((count, 0), (count, plan.exits)):
        wanted = f"[{count}, {plan.exits}] or [{count}, 0]" if plan.exits else f"[{count}, 0]"
        yield f"options.exit_confidence must be {wanted}, not {list(exits.shape)}"
    if np.isnan(exits).any():
        yield "options.exit_confidence must not be NaN"
    if np.isnan(thresholds).any():
        yield "options.thresholds must not be NaN"
    if forced is not None and len(forced) != layers:
        yield f"options.forced_masks needs {layers} masks, not {len(forced)}"


def exit_confidence(plan: Plan, options: RunOptions) -> NDArray[np.float32]:
    """Confidences above which each image leaves, float32 [N, E]; 1, which none exceeds, where none were given."""
    if options.exit_confidence.shape[1] == plan.exits:
        return np.ascontiguousarray(options.exit_confidence, np.float32)
    return np.ones((len(options), plan.exits), np.float32)
