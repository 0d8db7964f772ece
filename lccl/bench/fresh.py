"""Networks with fresh weights that skip a wanted share: thresholds are quantiles of their gates' values."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lccl.engines.reference import ReferenceEngine, State
from lccl.errors import LcclError
from lccl.networks import ResNet
from lccl.networks.gates import Gate
from lccl.networks.resnet import PreActivationBlock
from lccl.plan.run import RunOptions, Setting
from lccl.plan.steps import Classify, Plan, Step
from lccl.plan.steps import Gate as GateStep

TOLERANCE = 0.05
SANE = (1e-3, 1e3)
FINITE = (0.0, 1e30)
GATE_SPREAD = 0.01


def fit(network: ResNet, images: Tensor) -> None:
    """Make a fresh network's values and gates ones that thresholds can part; in place, by one forward pass.

    - Every normalisation takes the statistics of these images [N, 3, H, W] while nothing is skipped: values keep
      their size at any depth.
    - Gates are 1 ± 0.01: values are multiplied by them, and neither grow nor vanish.
    - A skipped cell leaves 0. Gates have no negative weights, and a normalisation behind a gated convolution has
      mean 0: so where all that a gate reads was skipped, its value is the lowest, and common to such positions.
    - Convolutions answer to differences, not to levels: these differ between images, and sink as layers skip.

    :func:`choose_thresholds` then takes a quantile of each gate's values; runs compare gates with it, as in service.
    """
    for conv in (module for module in network.modules() if isinstance(module, nn.Conv2d)):
        conv.weight.data -= conv.weight.data.mean((1, 2, 3), keepdim=True)
    for gate in (module for module in network.modules() if isinstance(module, Gate)):
        gate.conv.weight.data.abs_()
        if gate.norm is not None:
            nn.init.constant_(gate.norm.weight, GATE_SPREAD)
            nn.init.constant_(gate.norm.bias, 1.0)
    behind_gates = {
        norm
        for block in network.blocks if isinstance(block, PreActivationBlock)
        for conv, norm in zip(block.convs.values(), block.norms[1:], strict=False) if conv.gate is not None
    }  # fmt: skip
    hooks = [
        norm.register_forward_pre_hook(partial(_take_statistics, norm not in behind_gates))
        for norm in network.modules() if isinstance(norm, nn.BatchNorm2d)
    ]  # fmt: skip
    with torch.inference_mode():
        network.eval()(images)
    for hook in hooks:
        hook.remove()


def _take_statistics(centred: bool, norm: nn.Module, inputs: tuple[Tensor]) -> None:
    """A hook: the normalisation takes the statistics of its input, about 0 unless ``centred``."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(inputs[0].mean((0, 2, 3)) * centred)
    norm.running_var.copy_((inputs[0] - norm.running_mean[:, None, None]).square().mean((0, 2, 3)))


def choose_thresholds(plan: Plan, images: NDArray[np.uint8], skip: float) -> tuple[Setting, NDArray[np.int64]]:
    """One threshold per layer, for all images alike, under which each layer skips the share ``skip`` of its cells.

    Returns:
        the setting, and the cells that it keeps, int64 [P, L].

    Raises:
        LcclError: a layer's gates do not allow it.

    """
    engine, nothing = _Chooser(plan, skip), Setting((float("-inf"),) * len(plan.layers))
    output, state = engine.trace(images, RunOptions.of([nothing] * len(images)))
    return Setting(tuple(state.thresholds[0].tolist())), output.kept


class _Chooser(ReferenceEngine):
    """Sets a layer's threshold when it comes there, by gates of inputs that earlier layers have skipped in."""

    def __init__(self, plan: Plan, skip: float) -> None:
        super().__init__(plan, torch.device("cpu"))
        self._skip = skip

    def step(self, step: Step, state: State) -> None:
        super().step(step, state)
        check_values(step, state, SANE)

    def _gate(self, gate: GateStep, stride: int, value: Tensor, state: State) -> Tensor:
        super()._gate(gate, stride, value, state)
        gates = state.gates[gate.layer].numpy()
        state.thresholds[:, gate.layer] = float(np.quantile(gates, self._skip))
        masked = super()._gate(gate, stride, value, state)
        reached = 1 - float(state.masks[gate.layer].float().mean())
        if abs(reached - self._skip) > TOLERANCE:
            raise LcclError(
                f"{gate.name} skips {reached:.3f} of its cells where {self._skip:g} is asked for: "
                f"{float((gates <= 0).mean()):.3f} of its gates are zero"
            )
        return masked


def check_values(step: Step, state: State, limits: tuple[float, float]) -> None:
    """Refuse values that no trained network has: arithmetic on them may take another time, or overflow.

    ``limits`` are those of their root mean square.

    Raises:
        LcclError: with the step's name and how large its values are.

    """
    values = [state.logits] if isinstance(step, Classify) else [state.values.get(name) for name in step.writes]
    for value in values:
        if value is None or not len(value):  # all images have left
            continue
        size = float(value.square().mean().sqrt())
        if not limits[0] <= size <= limits[1]:
            raise LcclError(f"values of size {size:.3g} in {getattr(step, 'name', type(step).__name__)}: not a network")
