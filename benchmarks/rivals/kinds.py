"""The rivals by name, and what an operation of each is counted as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.rivals.binary import binarise, binarise_weights
from benchmarks.rivals.operations import convolution_macs
from benchmarks.rivals.pruning import Pruning
from lccl.networks import ResNet


@dataclass(frozen=True, slots=True)
class Rival:
    """A way to make a network cheaper.

    Attributes:
        change: done to the network before its first step.
        cost: what a multiply-accumulate of a changed convolution is counted as. With binary weights nothing is
            multiplied: a half. With binary inputs too, 64 fit into one instruction. Source: Rastegari et al. 2016.
        retrains: whether it changes a trained network, which is then trained for half as many epochs again; else it
            is trained from fresh weights.

    """

    change: Callable[[ResNet], None]
    cost: float = 1.0
    retrains: bool = False

    def operations(self, network: ResNet) -> float:
        """Multiply-accumulates, or what counts as such, of a changed network for one image."""
        counted = convolution_macs(network).items()
        changed = sum(count for name, count in counted if name.startswith("blocks."))
        whole = sum(count for name, count in counted if not name.startswith("blocks."))
        return self.cost * changed + whole + network.classifier.weight.numel()


RIVALS = {
    "pfec-24": Rival(Pruning(0.242), retrains=True),
    "pfec-35": Rival(Pruning(0.349), retrains=True),
    "bwn": Rival(binarise_weights, cost=1 / 2),
    "xnor": Rival(binarise, cost=1 / 64),
}
