"""Which SkipConvs compute every position of a batch: decided on the host, before the batch runs, from earlier ones.

Listing kept positions costs a little; where nearly all are kept, computing all of them is faster. What a batch keeps
is known on the device alone, so it is predicted from thresholds: each layer's kept share at thresholds that it has run
with. Either way the answer is bitwise the same; only time is at stake.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lccl.engines.cuda.batch import Dense

REMEMBERED = 32  # thresholds per layer
LEARNS = 0.1  # how much of a newer share enters one that is known


class KeptShares:
    """Each layer's kept share by threshold, as batches have shown it."""

    def __init__(self, layers: int) -> None:
        self._thresholds: list[list[float]] = [[] for _ in range(layers)]
        self._shares: list[list[float]] = [[] for _ in range(layers)]

    def learn(self, thresholds: NDArray[np.float32], shares: NDArray[np.float64]) -> None:
        """Enter what a batch kept: both [N, L]."""
        for layer, (known, kept) in enumerate(zip(self._thresholds, self._shares, strict=True)):
            for threshold in np.unique(thresholds[:, layer]):
                share = float(shares[thresholds[:, layer] == threshold, layer].mean())
                place = int(np.searchsorted(known, threshold))
                if place < len(known) and known[place] == threshold:
                    kept[place] += LEARNS * (share - kept[place])
                elif len(known) < REMEMBERED:
                    known.insert(place, float(threshold))
                    kept.insert(place, share)

    def predict(self, thresholds: NDArray[np.float32]) -> NDArray[np.float64]:
        """The mean share that a batch will keep, [L]; 0, which makes lists, in layers not known yet."""
        found = np.zeros(len(self._thresholds))
        for layer, (known, kept) in enumerate(zip(self._thresholds, self._shares, strict=True)):
            finite = [(one, share) for one, share in zip(known, kept, strict=True) if np.isfinite(one)]
            if finite:
                xs, ys = zip(*finite, strict=True)
                asked = np.nan_to_num(thresholds[:, layer], neginf=xs[0], posinf=xs[-1])
                found[layer] = np.interp(asked, xs, ys).mean()
        return found


class Dispatch:
    """Chooses a pattern per batch; at most ``patterns`` different ones, since each needs a graph of its own."""

    def __init__(self, break_even: Sequence[float], patterns: int = 4) -> None:
        """``break_even`` is each layer's kept share above which computing all positions is no slower."""
        self.shares = KeptShares(len(break_even))
        self._break_even = np.asarray(break_even, np.float64)
        self._patterns: set[Dense] = {(False,) * len(break_even)}
        self._most = patterns

    def choose(self, thresholds: NDArray[np.float32]) -> Dense:
        """The pattern for thresholds [N, L]; once there are enough of them, the nearest that lists no less."""
        wanted = tuple(bool(one) for one in self.shares.predict(thresholds) > self._break_even)
        if wanted in self._patterns:
            return wanted
        if len(self._patterns) < self._most:
            self._patterns.add(wanted)
            return wanted
        fitting = (known for known in self._patterns if all(w or not k for w, k in zip(wanted, known, strict=True)))
        return max(fitting, key=sum)
