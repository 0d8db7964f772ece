"""Fresh weights made fit to be measured: values that neither grow nor vanish, and gates that thresholds can part."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lccl.engines.reference import ReferenceEngine
from lccl.engines.reference_state import State
from lccl.errors import LcclError
from lccl.networks import ResNet
from lccl.networks import gates as gate_modules
from lccl.networks.resnet import PreActivationBlock
from lccl.plan.run import RunOptions, Setting
from lccl.plan.steps import Classify, Convolve, Gate, Plan, Step

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
    for gate in (module for module in network.modules() if isinstance(module, gate_modules.Gate)):
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
        super().__init__(plan, precision="auto")
        self._skip = skip

    def step(self, step: Step, state: State) -> None:
        if isinstance(step, Convolve) and step.gate is not None:
            self._gated(step, step.gate, state)
        else:
            super().step(step, state)
        check_values(step, state, SANE)

    def _gated(self, step: Convolve, gate: Gate, state: State) -> None:
        gates = torch.relu(self.gate_before_activation(gate, step.stride, state)).numpy()
        state.thresholds[:, gate.layer] = float(np.quantile(gates, self._skip))
        super().step(step, state)
        reached = 1 - float(state.masks[gate.layer].float().mean())
        if abs(reached - self._skip) > TOLERANCE:
            raise LcclError(
                f"{gate.name} skips {reached:.3f} of its cells where {self._skip:g} is asked for: "
                f"{float((gates <= 0).mean()):.3f} of its gates are zero"
            )


def check_values(step: Step, state: State, limits: tuple[float, float]) -> None:
    """Refuse values that no trained network has: arithmetic on them may take another time, or overflow.

    ``limits`` are those of their root mean square.

    Raises:
        LcclError: with the step's name and how large its values are.

    """
    values = [state.logits] if isinstance(step, Classify) else [state.values.get(name) for name in step.writes]
    for value in values:
        if value is None or not len(value) or not value.is_floating_point():  # all images have left, or in int8
            continue
        size = float(value.square().mean().sqrt())
        if not limits[0] <= size <= limits[1]:
            raise LcclError(f"values of size {size:.3g} in {getattr(step, 'name', type(step).__name__)}: not a network")
