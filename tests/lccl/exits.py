"""Networks with SideNets, which exit each image takes, and options that send it there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lccl.networks.sidenet import SideNetSpec
from lccl.plan import steps
from lccl.plan.run import RunOptions
from lccl.plan.steps import Plan

SIDENETS = (SideNetSpec(1, 2, 7), SideNetSpec(4, 3, 20), SideNetSpec(8, 1, 33))


@dataclass(frozen=True)
class Sided:
    """A plan with exits, and images with options that leave by none."""

    plan: Plan
    pixels: np.ndarray
    options: RunOptions

    @property
    def ends(self):
        """Exits, and the network's end."""
        return range(self.plan.exits + 1)


def add_sidenets(network, specs=SIDENETS):
    """Random ones that are sure of some images."""
    network.add_sidenets(specs)
    network.sidenets.double().requires_grad_(False)
    for side in network.sidenets:
        for linear, scale in ((side.hidden, 2), (side.classifier, 4)):
            linear.weight.normal_(0, scale * linear.in_features**-0.5)


def without_exits(plan):
    pools = {step.input for step in plan.steps if isinstance(step, steps.Exit)}
    pooling = [step for step in plan.steps if isinstance(step, steps.AveragePool) and step.raw in pools]
    kept = tuple(step for step in plan.steps if not isinstance(step, steps.Exit) and step not in pooling)
    return replace(plan, steps=kept, exits=0, buffers=tuple(one for one in plan.buffers if one.name not in pools))


def of_images(options, images, **changed):
    """The options of some of the images."""
    masks = options.forced_masks
    return replace(
        options,
        thresholds=options.thresholds[images],
        exit_confidence=options.exit_confidence[images],
        forced_masks=masks and tuple(mask[images] for mask in masks),
        **changed,
    )


def leaving_by(options, end, exits):
    """The options with which every image leaves by one end."""
    row = np.where(np.arange(exits) == end, -np.inf, 1).astype(np.float32)
    return replace(options, exit_confidence=np.tile(row, (len(options), 1)))


def confidences(outputs):
    """What each exit makes of each image, float64 [N, E], from the logits of runs that end there."""
    logits = np.stack([out.logits for out in outputs], 1).astype(np.float64)
    return 1 / np.exp(logits - logits.max(2, keepdims=True)).sum(2)


def sending(confidence, ends, seed=0, margin=1e-3):
    """Exit confidences, float32 [N, E], with which each image leaves by an end of its own; what is behind is drawn."""
    images, exits = confidence.shape
    sure = np.random.default_rng(seed).random((images, exits)) < 0.5
    number = np.arange(exits)
    sure[number < np.asarray(ends)[:, None]] = False
    sure[number == np.asarray(ends)[:, None]] = True
    return (confidence * np.where(sure, 1 - margin, 1 + margin)).astype(np.float32)
