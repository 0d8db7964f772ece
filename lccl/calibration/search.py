"""The threshold search: which threshold to raise next, or which exit's confidence to lower, by cost and work saved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lccl.data import Split
from lccl.engines.base import Engine
from lccl.measurement import exact_setting, outputs_over
from lccl.networks import ResNet
from lccl.networks.inputs import images_at_once, normalise
from lccl.plan.run import NEVER, RunOutput, Setting
from lccl.preprocessing import Preprocessing

Progress = Callable[[str], None]
Values = NDArray[np.float64]
Closing = Literal["blocks", "layers", "last"]
LARGEST_COST = 1.0
MOVES = 160
FEWEST_CANDIDATES, MOST_CANDIDATES = 3, 8
SAMPLED_IMAGES = 256
LOOKED_AT = 4
CLOSED = 1.1
EXIT_CANDIDATES = 20


@dataclass(frozen=True, slots=True, eq=False)
class ThresholdCurve:
    """Settings from exact onwards, linear between knots: what the threshold search found.

    No layer's threshold ever falls along it, and no exit's confidence rises.

    Attributes:
        knots: at least exact.
        skip_ratios: [knots], reached on the images that it was found on.

    """

    knots: tuple[Setting, ...]
    skip_ratios: Values

    @property
    def length(self) -> int:
        return len(self.knots) - 1

    @property
    def thresholds(self) -> Values:
        """float64 [knots, L]."""
        return np.array([knot.thresholds for knot in self.knots], dtype=np.float64)

    def at(self, position: float) -> Setting:
        """The setting at a position from 0 (exact) to ``length``."""
        low = min(int(position), max(0, self.length - 1))
        return self.knots[low].mixed(self.knots[min(low + 1, self.length)], position - low)


def search_thresholds(
    engine: Engine,
    candidates: Sequence[Values],
    split: Split,
    largest_cost: float,
    progress: Progress = lambda _: None,
    *,
    closing: Closing = "blocks",
) -> ThresholdCurve:
    """Move a threshold or an exit to its next candidate, or close a block, whichever costs least for what it saves.

    The cost of a setting is how far its answers lie from exact's, as the mean Kullback–Leibler divergence over
    the images; the work saved is the skip ratio reached, what a move brings about in later layers included. A
    convolution whose only reader skips everything costs nothing to skip: what closing its reader gains is seen only
    with it, so with ``blocks`` a block's layers may also be closed together, in one move. With ``last`` no layer is
    closed, and no exit taken by all images, before nothing else saves anything: until then images decide what is
    skipped.

    Costs of moves are remembered and looked at again only when a move seems to be next, or when a neighbouring
    layer has moved: a lazy greedy search, some six runs over the images for a move.

    Args:
        candidates: for each layer the rising thresholds, all above 0, that it may go through, and for each early exit
            the falling confidences, all below 1. What has none stays where it is.
        largest_cost: where to stop, in nats.
        closing: whether layers are closed one by one (``layers``) and whole blocks as well (``blocks``), whenever that
            costs least for what it saves, or one by one after everything else (``last``).

    """
    search = _Greedy(engine, candidates, split, closing)
    while search.cost <= largest_cost and search.advance():
        done = len(search.rows) - 1
        progress(f"{done} moves: skip ratio {search.skip_ratios[-1]:.3f}, {search.cost:.4f} nats from exact")
    return ThresholdCurve(tuple(map(search.setting, search.rows)), np.array(search.skip_ratios))


def gate_values(network: ResNet, preprocessing: Preprocessing, split: Split) -> list[Values]:
    """Each layer's finite gate values on some images, exact, sorted; the network is in evaluation mode on the CPU."""
    parts = []
    with torch.no_grad():
        for images, _ in split.first(SAMPLED_IMAGES).batches(images_at_once(preprocessing.size, SAMPLED_IMAGES)):
            parts.append(network(normalise(images, preprocessing.statistics)).gates)
    gates = [torch.cat([gate.flatten() for gate in layer]) for layer in zip(*parts, strict=True)]
    layers = [np.sort(gate.double().numpy()) for gate in gates]
    return [values[np.isfinite(values)] if np.isfinite(values).any() else np.zeros(1) for values in layers]


def gate_candidates(values: Sequence[Values]) -> list[Values]:
    """For each layer evenly spaced quantiles of its gate's values above 0, and last a threshold above all of them."""
    count = min(MOST_CANDIDATES, max(FEWEST_CANDIDATES, MOVES // max(1, len(values))))
    candidates = []
    for layer in values:
        quantiles = np.quantile(layer, np.arange(1, count) / count)
        candidates.append(np.unique([*quantiles[quantiles > 0], CLOSED * max(float(layer[-1]), 1e-3)]))
    return candidates


def exit_candidates(engine: Engine, split: Split) -> list[Values]:
    """For each early exit falling quantiles of its confidences over some images, and last 0: all images leave."""
    exits, candidates = len(engine.shape.exits), []
    for number in range(exits):
        only_here = tuple(NEVER * (number != other) for other in range(exits))
        setting = Setting(exact_setting(engine).thresholds, only_here)
        confidence = np.exp(_log_probabilities([output for output, _ in outputs_over(engine, split, setting)])).max(1)
        quantiles = np.quantile(confidence, 1 - np.arange(1, EXIT_CANDIDATES) / EXIT_CANDIDATES)
        falling = np.unique(quantiles.astype(np.float32))[::-1].astype(np.float64)
        candidates.append(np.array([*falling[falling < NEVER], 0.0]))
    return candidates


def skipped_shares(curve: ThresholdCurve, values: Sequence[Values]) -> Values:
    """Each knot's thresholds as shares of the gate values that they close, float64 [knots, L]; 0 where at 0."""
    thresholds = curve.thresholds
    columns = [
        np.searchsorted(layer, thresholds[:, column], side="right") / len(layer) * (thresholds[:, column] > 0)
        for column, layer in enumerate(values)
    ]
    return np.stack(columns, axis=1)


Columns = tuple[int, ...]


@dataclass(slots=True)
class _Move:
    """What a move came to when it was last looked at."""

    price: float
    cost: float
    skip_ratio: float
    seen: int


class _Greedy:
    """The state of the search: where every layer and exit stands, and what its next move would come to.

    A setting is a row [L + E] here, thresholds first. A move is known by the columns that it changes: one column goes
    to its next candidate, the layers of a block to their last.
    """

    def __init__(self, engine: Engine, candidates: Sequence[Values], split: Split, closing: Closing) -> None:
        self._engine, self._candidates, self._split, self._closing = engine, candidates, split, closing
        self._exact: Values | None = None
        self._level = [0] * len(candidates)
        exits = len(engine.shape.exits)
        self.rows: list[Values] = [np.array([0.0] * (len(candidates) - exits) + [NEVER] * exits)]
        self.cost, exact = self._run(self.rows[0])
        self.skip_ratios = [exact]
        single: list[Columns] = [(column,) for column in range(len(candidates)) if len(candidates[column])]
        blocks = [tuple(column for column in block if len(candidates[column])) for block in engine.shape.blocks]
        moves = [*single, *(block for block in blocks if len(block) > 1 and closing == "blocks")]
        self._moves = {move: self._look(move) for move in moves}

    def setting(self, row: Values) -> Setting:
        layers = len(self._engine.shape.layers)
        return Setting(tuple(row[:layers].tolist()), tuple(row[layers:].tolist()))

    def advance(self) -> bool:
        """Make the cheapest move; False where no move with a finite cost is left."""
        if not self._moves:
            return False
        cheapest = self._cheapest()
        if not np.isfinite(self._moves[cheapest].cost):
            return False
        self._make(cheapest)
        near = [move for move in self._moves if any(abs(one - other) <= 1 for one in move for other in cheapest)]
        self._moves |= {move: self._look(move) for move in near}
        return True

    def _cheapest(self) -> Columns:
        """The first move in the order of prices, looked at again; of those that save nothing, the one that costs least.

        Prices of other moves may have changed since they were looked at: of ``LOOKED_AT`` that were looked at again, or
        of the first one after these that saves something, the cheapest is taken.
        """
        now, looked = len(self.rows), 0
        while True:
            cheapest = min(self._moves, key=self._price)
            if self._moves[cheapest].seen == now:
                return cheapest
            current = [move for move in self._moves if self._moves[move].seen == now]
            best = min(current, key=self._price, default=cheapest)
            if looked >= LOOKED_AT and np.isfinite(self._moves[best].price) and best in current:
                return best
            self._moves[cheapest] = self._look(cheapest)
            looked += 1

    def _price(self, columns: Columns) -> tuple[bool, bool, float, float]:
        """What moves are made in the order of; those that save nothing come last."""
        move = self._moves[columns]
        closes = all(self._level[column] + 1 == len(self._candidates[column]) for column in columns)
        return not np.isfinite(move.price), closes and self._closing == "last", move.price, move.cost

    def _make(self, columns: Columns) -> None:
        move = self._moves[columns]
        *passed, last = self._steps(columns)
        self.skip_ratios += [*(self._run(row)[1] for row in passed), move.skip_ratio]
        self.rows += [*passed, last]
        self.cost = move.cost
        for column in columns:
            self._level[column] = self._level[column] + 1 if len(columns) == 1 else len(self._candidates[column])
        self._moves = {left: self._moves[left] for left in self._moves if any(self._is_open(column) for column in left)}

    def _steps(self, columns: Columns) -> list[Values]:
        """The rows that a move goes through, its own last. A block's layers rise one by one, the last one first.

        So the skip ratio rises steadily: closed the other way round, what follows reads zeros and opens or closes at
        once.
        """
        row, rows = self.rows[-1].copy(), []
        for column in reversed(columns):
            left = self._candidates[column][self._level[column] :]
            for candidate in left[:1] if len(columns) == 1 else left:
                row[column] = candidate
                rows.append(row.copy())
        return rows

    def _is_open(self, column: int) -> bool:
        return self._level[column] < len(self._candidates[column])

    def _look(self, columns: Columns) -> _Move:
        cost, skip_ratio = self._run(self._steps(columns)[-1])
        saved = skip_ratio - self.skip_ratios[-1]
        price = (cost - self.cost) / saved if saved > 1e-9 and np.isfinite(cost) else np.inf
        return _Move(price, cost, skip_ratio, len(self.rows))

    def _run(self, row: Values) -> tuple[float, float]:
        """Mean divergence from exact's answers, in nats, and the mean skip ratio."""
        outputs = [output for output, _ in outputs_over(self._engine, self._split, self.setting(row))]
        answers = _log_probabilities(outputs)
        if self._exact is None:
            self._exact = answers
        divergence = float((np.exp(self._exact) * (self._exact - answers)).sum(1).mean())
        kept = np.concatenate([output.kept for output in outputs])
        cost = divergence if np.isfinite(divergence) else np.inf
        return cost, float(self._engine.shape.skip_ratio(kept).mean())


def _log_probabilities(outputs: Sequence[RunOutput]) -> Values:
    logits = np.concatenate([output.logits.astype(np.float64) for output in outputs])
    with np.errstate(invalid="ignore"):
        shifted = logits - logits.max(1, keepdims=True)
    logarithms: Values = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return logarithms
