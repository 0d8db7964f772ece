"""Runs single steps of a program, with what they read put in and what they write taken out."""

from __future__ import annotations

import numpy as np
import torch

from lccl.engines.cuda.batch import Batch
from lccl.plan import steps
from lccl.plan.run import RunOutput


class Stepper:
    """A program by its steps, as ``tests.lccl.comparison`` runs them."""

    def __init__(self, program, precision, dense):
        self.program, self.precision, self.dense = program, precision, dense
        self.plan, self.shape = program.plan, program.shape

    def run_step(self, number, values, options):
        """From float32 [N, C, H, W] values to those written, border and all; NaN lies where they go before."""
        step, images = self.plan.steps[number], len(options)
        device = self.program._active.device
        batch = Batch.of(self.plan, self.shape, images, device, torch.uint8)
        batch.valid.fill_(1)
        batch.thresholds.copy_(torch.from_numpy(options.thresholds))
        batch.norm_set.copy_(torch.from_numpy(options.norm_set))
        for launch in self.program.step(0, batch, self.dense):
            launch()
        outputs = (
            [step.raw, step.activated and step.activated.buffer] if isinstance(step, steps.Convolve) else [step.raw]
        )
        for name in filter(None, outputs):
            self._put(name, np.nan, images)
        for name, value in values.items():
            self._put(name, torch.from_numpy(np.ascontiguousarray(value)).permute(0, 2, 3, 1).to(device), images)
        forced = None
        if options.forced_masks is not None:
            forced = tuple(torch.from_numpy(mask).to(device) for mask in options.forced_masks)
        for launch in self.program.step(number, batch, self.dense, forced):
            launch()
        kept = batch.kept.cpu().numpy().astype(np.int64)
        listed = self.program.listed_rows()
        executed = self.program.step_macs(step, kept, np.ones(images, dtype=bool), self.dense, listed)
        masks = tuple(mask.cpu().numpy() for mask in batch.masks)
        written = {name: self._get(name, images) for name in outputs if name}
        return written, RunOutput(np.zeros((images, 0)), kept, executed, np.zeros(images, np.int64), masks)

    def _put(self, name, values, images):
        """Values inside a map; what may be absent is there."""
        place, (map_, there) = self.program._places[name], self.program.map_of(name, images)
        inside = np.s_[:, place.border : place.border + place.height, place.border : place.border + place.width]
        map_[(*inside, np.s_[: place.channels])] = values
        if there is not None:
            there[inside] = 1

    def _get(self, name, images):
        """A map as its readers see it: what is absent is 0."""
        place, (map_, there) = self.program._places[name], self.program.map_of(name, images)
        values = map_.float()
        if there is not None:
            values = torch.where(there[..., None] != 0, values, 0.0)
        assert not values[..., place.channels :].any()
        return values[..., : place.channels].permute(0, 3, 1, 2).cpu().numpy()
