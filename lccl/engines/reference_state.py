"""A batch on its way through a plan, as the reference engine keeps it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lccl.errors import InputError
from lccl.plan.run import RunOptions
from lccl.plan.steps import Gate


@dataclass
class State:
    """A batch on its way through the plan.

    ``values``, ``thresholds`` and ``confidence`` hold only the images still active; ``active`` are their positions in
    the batch. A step that ends images takes them out of all four.

    ``masks`` and ``gates`` of a layer are of the whole batch, 0 for images that left before it; so are ``logits``
    and ``exit_index``.
    """

    options: RunOptions
    active: Tensor
    values: dict[str, Tensor]
    thresholds: Tensor
    confidence: Tensor
    logits: Tensor
    exit_index: Tensor
    ended: bool = False
    gates: dict[int, Tensor] = field(default_factory=dict)
    masks: dict[int, Tensor] = field(default_factory=dict)

    def of_batch(self, active: Tensor) -> Tensor:
        """Values of the active images laid out for the whole batch, 0 elsewhere."""
        whole = active.new_zeros((len(self.exit_index), *active.shape[1:]))
        whole[self.active] = active
        return whole

    def leave(self, who: Tensor, logits: Tensor, number: int) -> None:
        """End the run of those active images for which ``who`` holds, with their logits as the answer."""
        leaving, stay = self.active[who], ~who
        self.logits[leaving], self.exit_index[leaving] = logits[who], number
        self.active = self.active[stay]
        self.thresholds, self.confidence = self.thresholds[stay], self.confidence[stay]
        self.values = {name: value[stay] for name, value in self.values.items()}

    def gated(self, gate: Gate, maps: Tensor, value: Tensor) -> Tensor:
        """The value times its gate where kept, exactly 0 elsewhere, whatever the value is there.

        Args:
            maps: the gate's values, [N, G, H, W].
            value: [N, T, H, W].

        Raises:
            InputError: a forced mask has another shape.

        """
        keep = maps > self.thresholds[:, gate.layer, None, None, None]
        if self.options.forced_masks is not None:
            keep = torch.from_numpy(self.options.forced_masks[gate.layer]).to(maps.device)[self.active].bool()
            if keep.shape != maps.shape:
                raise InputError(f"a forced mask must be {list(maps.shape)}, not {list(keep.shape)}")
        self.gates[gate.layer], self.masks[gate.layer] = self.of_batch(maps), self.of_batch(keep)
        share = value.shape[1] // maps.shape[1]
        if maps.shape[1] > 1:
            maps, keep = maps.repeat_interleave(share, 1), keep.repeat_interleave(share, 1)
        return torch.where(keep, value * maps, torch.zeros_like(value))
