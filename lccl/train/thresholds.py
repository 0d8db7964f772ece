"""Thresholds under which images train: drawn per image, as a share of the whole network's work."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class ThresholdSampler:
    """Turns a wanted skip ratio into one threshold for all layers, by quantiles of recent gate values.

    The quantiles are pooled over the layers, each layer weighted by its convolution's MACs. So a
    network cannot escape skipping by scaling its gates up, and layers compete for what is kept.
    Drawing per image, not per batch, makes the normalisation statistics those of the mixture that
    one set of weights is served with.

    Attributes:
        quantiles: gate values at skip ratios 0, 0.01, … 1; float32 [101].

    """

    GRID = 101
    MEMORY = 0.95
    SAMPLES_PER_LAYER = 512

    def __init__(self, layer_macs: Sequence[int], device: torch.device) -> None:
        self.quantiles = torch.zeros(self.GRID, device=device)
        self._weights = torch.tensor(layer_macs, dtype=torch.float32, device=device)
        self._seen = 0

    @property
    def layers(self) -> int:
        return len(self._weights)

    def restore(self, quantiles: Tensor, seen: int) -> None:
        """Go on from the quantiles that an earlier run had after ``seen`` observations."""
        self.quantiles, self._seen = quantiles, seen

    @torch.no_grad()
    def observe(self, gates: Sequence[Tensor], random: torch.Generator) -> None:
        """Take in the gates [N, G, H, W] of every layer for images that ran exactly."""
        if not gates or not len(gates[0]):
            return
        values = torch.stack([self._sample(gate, random) for gate in gates])
        weights = self._weights[:, None].expand_as(values).flatten()
        values, order = values.flatten().sort()
        share = weights[order].cumsum(0)
        grid = torch.linspace(0, 1, self.GRID, device=values.device)
        index = torch.searchsorted(share / share[-1], grid).clamp(max=len(values) - 1)
        fresh = values[index]
        memory = min(self.MEMORY, self._seen / (self._seen + 1))
        self.quantiles = memory * self.quantiles + (1 - memory) * fresh
        self._seen += 1

    def threshold(self, skip_ratio: Tensor) -> Tensor:
        """Threshold for each wanted skip ratio (0..1); 0 where the exact network already skips as much."""
        place = skip_ratio.clamp(0, 1) * (self.GRID - 1)
        low = place.floor().long().clamp(max=self.GRID - 2)
        found = torch.lerp(self.quantiles[low], self.quantiles[low + 1], place - low)
        return found.where(self.quantiles[low] > 0, torch.zeros_like(found))

    def draw(self, images: int, exact_share: float, top: float, random: torch.Generator) -> Tensor:
        """Thresholds [images, layers]: the first ``exact_share`` of the images exact, others uniform up to ``top``."""
        exact = round(images * exact_share)
        ratio = torch.rand(images, generator=random).to(self.quantiles.device) * top
        column = self.threshold(ratio)
        column[:exact] = 0
        return column[:, None].expand(images, self.layers).contiguous()

    def _sample(self, gate: Tensor, random: torch.Generator) -> Tensor:
        flat = gate.detach().float().flatten()
        index = torch.randint(len(flat), (self.SAMPLES_PER_LAYER,), generator=random)
        return flat[index.to(flat.device)]
