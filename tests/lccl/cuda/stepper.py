"""Runs single steps of a program, with what they read put in and what they write taken out."""

from __future__ import annotations

import numpy as np
import torch

from lccl.engines.cuda.batch import Batch
from lccl.plan.geometry import shape_of
from lccl.plan.run import RunOutput


class Stepper:
    """A program by its steps, as ``tests.lccl.comparison`` runs them."""

    def __init__(self, program, precision):
        self.program, self.precision = program, precision
        self.plan, self.shape = program.plan, shape_of(program.plan)

    def run_step(self, number, values, options):
        """From float32 [N, C, H, W] values to those written, border and all; NaN lies where they go before."""
        images, device = len(options), self.program.workspace.device
        batch = Batch.of(self.plan, self.shape, images, device, torch.uint8)
        batch.valid.fill_(1)
        batch.thresholds.copy_(torch.from_numpy(options.thresholds))
        outputs = self.plan.steps[number].writes
        self._launch(0, batch)
        for name in outputs:
            self._put(name, np.nan, images)
        for name, value in values.items():
            self._put(name, torch.from_numpy(np.ascontiguousarray(value)).permute(0, 2, 3, 1).to(device), images)
        forced = None
        if options.forced_masks is not None:
            forced = tuple(torch.from_numpy(mask).to(device) for mask in options.forced_masks)
        self._launch(number, batch, forced)
        kept, listed = (counts.cpu().numpy().astype(np.int64) for counts in (batch.kept, batch.listed))
        beside_lists = self.program.steps[number].macs(np.ones(images, dtype=bool))
        executed = beside_lists + self.program.listed_macs(kept, listed)
        masks = tuple(mask.cpu().numpy() for mask in batch.masks)
        written = {name: self._get(name, images) for name in outputs}
        return written, RunOutput(np.zeros((images, 0)), kept, executed, np.zeros(images, np.int64), masks)

    def _launch(self, number, batch, forced=None):
        for launch in self.program.steps[number].launches(batch, forced):
            launch()

    def _inside(self, name, images):
        """A map without its border, and which of its positions are there."""
        values, there = self.program.workspace.as_laid(name, images)
        place = self.program.workspace.places[name].map
        rows, columns = (slice(place.border, place.border + side) for side in (place.height, place.width))
        return values[:, rows, columns, : place.channels], None if there is None else there[:, rows, columns]

    def _put(self, name, values, images):
        """Values inside a map; what may be absent is there."""
        inside, there = self._inside(name, images)
        inside[:] = values
        if there is not None:
            there[:] = 1

    def _get(self, name, images):
        """A map as its readers see it: what is absent is 0."""
        values, there = self.program.workspace.as_laid(name, images)
        values, channels = values.float(), self.program.workspace.places[name].map.channels
        if there is not None:
            values = torch.where(there[..., None] != 0, values, 0.0)
        assert not values[..., channels:].any()
        return values[..., :channels].permute(0, 3, 1, 2).cpu().numpy()
