"""Thresholds under which images train: drawn per image, as a share of the network's work."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

Allocation = Literal["common", "random", "path"]


class ThresholdSampler:
    """Turns wanted skip ratios into thresholds, by quantiles of each layer's recent gate values.

    So a network cannot escape skipping by scaling its gates up. Drawing per image, not per batch, makes
    the normalisation statistics those of the mixture that one set of weights is served with.

    How a network's ratio is shared out among its layers:

    - ``common``: one threshold for all, a quantile pooled over the layers by their MACs; they compete.
    - ``random``: each layer's share is drawn around the network's.
    - ``path``: as on the threshold curve that calibration would find; ``common`` until :meth:`follow` is given one.

    Attributes:
        quantiles: gate values of each layer at skip ratios 0, 0.01, … 1; float32 [L, 101].
        macs: of each layer's convolution for one image; float32 [L].

    """

    GRID = 101
    MEMORY = 0.95
    SAMPLES_PER_LAYER = 512

    def __init__(self, layer_macs: Sequence[int], device: torch.device) -> None:
        self.quantiles = torch.zeros(len(layer_macs), self.GRID, device=device)
        self.macs = torch.tensor(layer_macs, dtype=torch.float32, device=device)
        self._curve: tuple[Tensor, Tensor] | None = None
        self._seen = 0

    @property
    def layers(self) -> int:
        return len(self.macs)

    def state(self) -> dict[str, Tensor]:
        """What :meth:`restore` needs to go on."""
        curve = {} if self._curve is None else {"path_ratios": self._curve[0], "path_shares": self._curve[1]}
        return {"quantiles": self.quantiles} | curve

    def restore(self, state: Mapping[str, Tensor], seen: int) -> None:
        """Go on with the state that an earlier run had after ``seen`` observations."""
        self.quantiles, self._seen = state["quantiles"], seen
        if "path_ratios" in state:
            self.follow(state["path_ratios"], state["path_shares"])

    @torch.no_grad()
    def observe(self, gates: Sequence[Tensor], random: torch.Generator) -> None:
        """Take in the gates [N, G, H, W] of every layer, for images that ran exactly where there are any."""
        if not gates or not len(gates[0]):
            return
        values = torch.stack([self._sample(gate, random) for gate in gates]).sort(dim=1).values
        fresh = _read(values, torch.linspace(0, 1, self.GRID, device=values.device).expand(self.layers, -1))
        memory = min(self.MEMORY, self._seen / (self._seen + 1))
        self.quantiles = memory * self.quantiles + (1 - memory) * fresh
        self._seen += 1

    def thresholds(self, ratios: Tensor) -> Tensor:
        """Each layer's threshold for its own wanted skip ratio [N, L]; 0 where its gate is 0 that often anyway."""
        return _read(self.quantiles, ratios.T.contiguous()).T.where(ratios > 0, torch.zeros_like(ratios))

    def common(self, ratio: Tensor) -> Tensor:
        """One threshold for all layers for each of the network's wanted skip ratios [N]; [N, L]."""
        values, order = self.quantiles.flatten().sort()
        share = self.macs[:, None].expand_as(self.quantiles).flatten()[order].cumsum(0)
        index = torch.searchsorted(share / share[-1], ratio.clamp(0, 1)).clamp(max=len(values) - 1)
        return values[index][:, None].expand(-1, self.layers).contiguous()

    def follow(self, ratios: Tensor, shares: Tensor) -> None:
        """Share skip ratios out as along a curve: rising ``ratios`` [K], and each layer's own there [K, L].

        A curve of exact alone, as early in training, changes nothing.
        """
        if len(ratios) > 1:
            self._curve = ratios, shares

    def _along_curve(self, ratio: Tensor) -> Tensor:
        """Each layer's share [N, L] at the network's skip ratios [N]."""
        assert self._curve is not None
        ratios, shares = self._curve
        high = torch.searchsorted(ratios, ratio).clamp(1, len(ratios) - 1)
        between = (ratios[high] - ratios[high - 1]).clamp(min=1e-6)
        weight = ((ratio - ratios[high - 1]) / between).clamp(0, 1)
        return torch.lerp(shares[high - 1], shares[high], weight[:, None])

    def draw(
        self,
        images: int,
        exact_share: float,
        skip_range: tuple[float, float],
        random: torch.Generator,
        allocation: Allocation = "path",
        spread: float = 1.0,
    ) -> Tensor:
        """Thresholds [images, layers]: the first ``exact_share`` of the images exact, others uniform in ``skip_range``.

        ``spread`` is the standard deviation of the logit of a layer's share with ``random``.
        """
        bottom, top = skip_range
        ratio = (bottom + torch.rand(images, generator=random) * (top - bottom)).to(self.quantiles.device)
        noise = torch.randn(images, self.layers, generator=random).to(ratio.device) * spread
        drawn = self.shared_out(ratio, allocation, noise)
        exact = images if top == 0 else round(images * exact_share)
        drawn[:exact] = 0
        return drawn

    def shared_out(self, ratio: Tensor, allocation: Allocation, noise: Tensor | None = None) -> Tensor:
        """Thresholds [N, L] for the network's wanted skip ratios [N]; ``noise`` [N, L] is for the random kind."""
        if not self.layers:
            return ratio.new_zeros(len(ratio), 0)
        if allocation == "random":
            even = torch.logit(ratio, eps=1e-4)[:, None].expand(-1, self.layers)
            return self.thresholds(torch.sigmoid(even if noise is None else even + noise))
        if allocation == "path" and self._curve is not None:
            return self.thresholds(self._along_curve(ratio))
        return self.common(ratio)

    def _sample(self, gate: Tensor, random: torch.Generator) -> Tensor:
        flat = gate.detach().float().flatten()
        index = torch.randint(len(flat), (self.SAMPLES_PER_LAYER,), generator=random)
        return flat[index.to(flat.device)]


def _read(rows: Tensor, shares: Tensor) -> Tensor:
    """Each row's value at shares of its length (0..1), linear between neighbours: [L, K] and [L, N] → [L, N]."""
    position = shares.clamp(0, 1) * (rows.shape[1] - 1)
    low = position.floor().long().clamp(max=rows.shape[1] - 2)
    return torch.lerp(rows.gather(1, low), rows.gather(1, low + 1), position - low)
