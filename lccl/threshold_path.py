"""The way from exact to sparse: which threshold to raise or which exit to widen next, by what that costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lccl.data import Split
from lccl.engines.base import Engine
from lccl.evaluate import outputs_over
from lccl.networks import ResNet
from lccl.operating_points import NEVER
from lccl.preprocessing import Preprocessing

Progress = Callable[[str], None]
Thresholds = NDArray[np.float64]
LARGEST_COST = 1.0
MOVES = 160
FEWEST_NOTCHES, MOST_NOTCHES = 3, 8
SAMPLED_IMAGES = 256
LOOKED_AT = 4
SHUT = 1.1
EXIT_NOTCHES = 20


@dataclass(frozen=True, slots=True, eq=False)
class ThresholdPath:
    """Thresholds and exit confidences from exact onwards, float64 [corners, L + E].

    No layer's threshold ever falls along it, and no exit's confidence rises. ``skip_ratios`` [corners] are those
    reached on the images that it was found on.
    """

    corners: Thresholds
    skip_ratios: Thresholds

    @property
    def length(self) -> int:
        return len(self.corners) - 1

    def at(self, place: float) -> Thresholds:
        """The row [L + E] at a place from 0 (exact) to ``length``, linear between corners."""
        low = min(int(place), max(0, self.length - 1))
        high = min(low + 1, self.length)
        thresholds: Thresholds = self.corners[low] + (place - low) * (self.corners[high] - self.corners[low])
        return thresholds


def find_path(
    engine: Engine,
    notches: list[Thresholds],
    split: Split,
    largest_cost: float,
    progress: Progress = lambda _: None,
    *,
    whole_blocks: bool = True,
) -> ThresholdPath:
    """Move a threshold or an exit by a notch, or shut a block, whichever costs least for what it saves, repeatedly.

    The cost of a setting is how far its answers lie from exact's, as the mean Kullback–Leibler divergence over
    the images; the work saved is the skip ratio reached, what a move brings about in later layers included. A
    convolution whose only reader skips everything costs nothing to skip: what shutting its reader gains is seen only
    with it, so a block's layers may also be shut together, in one move.

    Costs of moves are remembered and looked at again only when a move seems to be next, or when a neighbouring
    layer has moved: a lazy greedy search, some six runs over the images for a move.

    Args:
        notches: for each layer the rising thresholds, all above 0, that it may go through, and for each early exit
            the falling confidences, all below 1. What has none stays where it is.
        largest_cost: where to stop, in nats.
        whole_blocks: whether a block may be shut in one move.

    """
    search = _Greedy(engine, notches, split, whole_blocks)
    while search.cost <= largest_cost and search.advance():
        done = len(search.corners) - 1
        progress(f"{done} moves: skip ratio {search.skip_ratios[-1]:.3f}, {search.cost:.4f} nats from exact")
    return ThresholdPath(np.stack(search.corners), np.array(search.skip_ratios))


def gate_values(network: ResNet, preprocessing: Preprocessing, split: Split) -> list[Thresholds]:
    """Each layer's finite gate values on some images, exact, sorted; the network is in evaluation mode on the CPU."""
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    pixels = torch.from_numpy(split.images[:SAMPLED_IMAGES]).float() / 255
    with torch.no_grad():
        gates = network(((pixels - mean) / std).permute(0, 3, 1, 2)).gates
    found = [np.sort(gate.double().flatten().numpy()) for gate in gates]
    return [values[np.isfinite(values)] if np.isfinite(values).any() else np.zeros(1) for values in found]


def notches_in(values: list[Thresholds]) -> list[Thresholds]:
    """For each layer evenly spaced quantiles of its gate's values, those above 0, and last what shuts it."""
    count = min(MOST_NOTCHES, max(FEWEST_NOTCHES, MOVES // max(1, len(values))))
    found = []
    for layer in values:
        quantiles = np.quantile(layer, np.arange(1, count) / count)
        found.append(np.unique([*quantiles[quantiles > 0], SHUT * max(float(layer[-1]), 1e-3)]))
    return found


def exit_notches(engine: Engine, split: Split) -> list[Thresholds]:
    """For each early exit falling quantiles of its confidences over some images, and last what lets all leave."""
    never = [NEVER] * len(engine.shape.exits)
    found = []
    for number in range(len(engine.shape.exits)):
        confidence = [NEVER] * number + [0.0] + never[number + 1 :]
        nothing = [0.0] * len(engine.shape.layers)
        outputs = [output for output, _ in outputs_over(engine, split, nothing, 0, confidence)]
        sure = np.exp(_log_softmax(np.concatenate([output.logits for output in outputs]).astype(np.float64))).max(1)
        quantiles = np.quantile(sure, 1 - np.arange(1, EXIT_NOTCHES) / EXIT_NOTCHES)
        falling = np.unique(quantiles.astype(np.float32))[::-1].astype(np.float64)
        found.append(np.array([*falling[falling < NEVER], 0.0]))
    return found


def row_parts(engine: Engine, row: Thresholds) -> tuple[list[float], list[float]]:
    """A row [L + E] as thresholds and exit confidences."""
    values = row.tolist()
    layers = len(engine.shape.layers)
    return values[:layers], values[layers:]


def levels_on(path: ThresholdPath, values: list[Thresholds]) -> Thresholds:
    """Each corner's thresholds as shares of the gate values that they shut, float64 [corners, L]; 0 where at 0."""
    columns = [
        np.searchsorted(layer, path.corners[:, column], side="right") / len(layer) * (path.corners[:, column] > 0)
        for column, layer in enumerate(values)
    ]
    return np.stack(columns, axis=1)


Places = tuple[int, ...]


@dataclass(slots=True)
class _Move:
    """What a move came to when it was last looked at."""

    price: float
    cost: float
    skip_ratio: float
    seen: int


class _Greedy:
    """The state of the search: where every layer and exit stands, and what its next move would come to.

    A move is known by the places in the row that it changes: one place goes to its next notch, the layers of a block
    to their last.
    """

    def __init__(self, engine: Engine, notches: list[Thresholds], split: Split, whole_blocks: bool) -> None:
        self._engine, self._notches, self._split = engine, notches, split
        self._exact: NDArray[np.float64] | None = None
        self._level = [0] * len(notches)
        exits = len(engine.shape.exits)
        self.corners: list[Thresholds] = [np.array([0.0] * (len(notches) - exits) + [NEVER] * exits)]
        self.cost, exact = self._run(self.corners[0])
        self.skip_ratios = [exact]
        single: list[Places] = [(place,) for place in range(len(notches)) if len(notches[place])]
        blocks = [tuple(place for place in block if len(notches[place])) for block in engine.shape.blocks]
        moves = [*single, *(block for block in blocks if len(block) > 1 and whole_blocks)]
        self._moves = {move: self._look(move) for move in moves}

    def advance(self) -> bool:
        """Make the cheapest move; False where every layer is shut."""
        if not self._moves:
            return False
        now = len(self.corners)
        for _ in range(LOOKED_AT):
            cheapest = min(self._moves, key=lambda one: self._moves[one].price)
            if self._moves[cheapest].seen == now:
                break
            self._moves[cheapest] = self._look(cheapest)
        self._make(cheapest)
        for move in self._moves:
            if any(abs(place - moved) <= 1 for place in move for moved in cheapest):
                self._moves[move] = self._look(move)
        return True

    def _make(self, places: Places) -> None:
        move = self._moves[places]
        *passed, last = self._way(places)
        self.skip_ratios += [*(self._run(row)[1] for row in passed), move.skip_ratio]
        self.corners += [*passed, last]
        self.cost = move.cost
        for place in places:
            self._level[place] = self._level[place] + 1 if len(places) == 1 else len(self._notches[place])
        self._moves = {left: self._moves[left] for left in self._moves if any(self._open(place) for place in left)}

    def _way(self, places: Places) -> list[Thresholds]:
        """The rows that a move goes through, its own last. A block's layers rise notch by notch, the last one first.

        So the skip ratio rises steadily: shut the other way round, what follows reads zeros and opens or shuts at once.
        """
        row, rows = self.corners[-1].copy(), []
        for place in reversed(places):
            left = self._notches[place][self._level[place] :]
            for notch in left[:1] if len(places) == 1 else left:
                row[place] = notch
                rows.append(row.copy())
        return rows

    def _open(self, place: int) -> bool:
        return self._level[place] < len(self._notches[place])

    def _look(self, places: Places) -> _Move:
        cost, skip_ratio = self._run(self._way(places)[-1])
        saved = skip_ratio - self.skip_ratios[-1]
        price = (cost - self.cost) / saved if saved > 1e-9 and np.isfinite(cost) else np.inf
        return _Move(price, cost, skip_ratio, len(self.corners))

    def _run(self, row: Thresholds) -> tuple[float, float]:
        """Mean divergence from exact's answers, in nats, and the mean skip ratio."""
        thresholds, exits = row_parts(self._engine, row)
        outputs = [output for output, _ in outputs_over(self._engine, self._split, thresholds, 0, exits)]
        answers = _log_softmax(np.concatenate([output.logits.astype(np.float64) for output in outputs]))
        if self._exact is None:
            self._exact = answers
        divergence = float((np.exp(self._exact) * (self._exact - answers)).sum(1).mean())
        return divergence if np.isfinite(divergence) else np.inf, float(
            self._engine.shape.skip_ratio(np.concatenate([output.kept for output in outputs])).mean()
        )


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        shifted = logits - logits.max(1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return found
