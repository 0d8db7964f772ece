"""Fine-tuning: a trained network goes on with other classes; its gates, and what they skip, begin as they were."""

import copy

import numpy as np
import torch
from torch import nn

from lccl.bundle.format import Bundle
from lccl.calibration.search import ThresholdCurve, gate_values, skipped_shares
from lccl.data import Split
from lccl.networks import Architecture, ResNet
from lccl.preprocessing import Preprocessing
from lccl.train.loop import Curve


def with_classes(start: Bundle, classes: int, seed: int) -> ResNet:
    """The bundle's network with a fresh classifier, and without SideNets: those answer for its former classes."""
    torch.manual_seed(seed)
    network = copy.deepcopy(start.network).requires_grad_(True)
    network.add_sidenets([])
    network.classifier = nn.Linear(network.classifier.in_features, classes)
    return network


def same_network(architecture: Architecture, start: Bundle) -> bool:
    """Whether they differ in nothing but their classes, and perhaps in gates that the bundle's lacks."""
    plain = start.architecture.gate == "none"
    one, other = (each.plain_twin if plain else each for each in (architecture, start.architecture))
    return (one.name, one.form, one.gate, one.placement, one.gate_norm, one.split) == (
        other.name, other.form, other.gate, other.placement, other.gate_norm, other.split,
    )  # fmt: skip


def curve_of(start: Bundle, preprocessing: Preprocessing, choose: Split) -> Curve | None:
    """The bundle's operating points as a curve to train along: thresholds as shares of the gate values on new images.

    None where it has exact alone.
    """
    points = start.table.points
    if len(points) < 2:
        return None
    ratios = np.maximum.accumulate([point.skip_ratio for point in points])
    curve = ThresholdCurve(tuple(point.setting for point in points), ratios)
    shares = skipped_shares(curve, gate_values(start.network, preprocessing, choose))
    return torch.from_numpy(ratios).float(), torch.from_numpy(shares).float()
