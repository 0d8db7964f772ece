"""The contract that every engine keeps, and the checks that all of them share."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lccl.errors import InputError, require
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
    image, count, layers = plan.image, len(images), len(plan.layers)
    size, exits = (image.height, image.width, image.channels), options.exit_confidence
    forced = layers if options.forced_masks is None else len(options.forced_masks)
    wanted = f"[{count}, {plan.exits}] or [{count}, 0]" if plan.exits else f"[{count}, 0]"
    normalised = np.issubdtype(images.dtype, np.floating)
    if normalised:
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            images = images.astype(floating, copy=False)
    require(
        InputError,
        (count and images.shape[1:] == size, f"images must be [N, {', '.join(map(str, size))}], not {images.shape}"),
        (normalised or images.dtype == np.uint8, f"images must be uint8 or floating, not {images.dtype}"),
        (not normalised or np.isfinite(images).all(), f"normalised images must be finite as {np.dtype(floating)}"),
        (
            options.thresholds.shape == (count, layers),
            f"options.thresholds must be {[count, layers]}, not {list(options.thresholds.shape)}",
        ),
        (
            exits.shape in ((count, 0), (count, plan.exits)),
            f"options.exit_confidence must be {wanted}, not {list(exits.shape)}",
        ),
        (not np.isnan(exits).any(), "options.exit_confidence must not be NaN"),
        (not np.isnan(options.thresholds).any(), "options.thresholds must not be NaN"),
        (forced == layers, f"options.forced_masks needs {layers} masks, not {forced}"),
    )
    return images


def exit_confidence(plan: Plan, options: RunOptions) -> NDArray[np.float32]:
    """Confidences above which each image leaves, float32 [N, E]; 1, which none exceeds, where none were given."""
    if options.exit_confidence.shape[1] == plan.exits:
        return np.ascontiguousarray(options.exit_confidence, np.float32)
    return np.ones((len(options), plan.exits), np.float32)
