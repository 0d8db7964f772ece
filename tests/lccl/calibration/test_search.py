"""The search raises the threshold that costs least for the work it saves, and never lowers one."""

from dataclasses import replace

import numpy as np

from lccl.calibration.search import (
    ThresholdCurve,
    _Greedy,
    exit_candidates,
    gate_candidates,
    gate_values,
    search_thresholds,
    skipped_shares,
)
from lccl.compiler import compile_network
from lccl.data import Split
from lccl.plan.geometry import Convolution, EarlyExit, GatedConvolution, NetworkShape
from lccl.plan.run import RunOutput, Setting
from tests.lccl.settings import uniform

IMAGES = 20
ANY = Split(np.zeros((IMAGES, 1, 1, 3), dtype=np.uint8), np.zeros(IMAGES, dtype=np.int64))
CANDIDATES = [np.array([1.0, 2.0, 3.0])] * 3


def curve_of(rows):
    return ThresholdCurve(tuple(Setting(tuple(row)) for row in rows), np.zeros(len(rows)))


def rows_of(curve):
    """Thresholds and exit confidences of each knot, [knots, L + E]."""
    return np.array([[*knot.thresholds, *knot.exit_confidence] for knot in curve.knots])


class PricedEngine:
    """Each layer skips a share and shifts a logit by functions of all thresholds; counts its runs."""

    batch_limit = 8
    shape = NetworkShape(
        tuple(GatedConvolution(name, Convolution(1, 1, 1, 1, 3000), 1, 1) for name in ("a", "b", "c")), 0
    )

    def __init__(self, harm, skipped=lambda row: row / 3):
        self.harm, self.skipped, self.rows = harm, skipped, []

    def run(self, images, options):
        row = options.thresholds[0].astype(float)
        self.rows.append(tuple(row))
        logits = np.array([[2.0 - self.harm(row), 0.0]]).repeat(len(images), 0)
        kept = np.round(3000 * (1 - self.skipped(row))).astype(np.int64)[None].repeat(len(images), 0)
        return RunOutput(logits, kept, kept.sum(1), np.zeros(len(images), np.int64))


def test_the_cheapest_layer_falls_first():
    curve = search_thresholds(PricedEngine(lambda row: row @ [0.5, 0.01, 0.1]), CANDIDATES, ANY, 10.0)
    assert [tuple(knot) for knot in rows_of(curve)[[3, 6, 9]]] == [(0, 3, 0), (0, 3, 3), (3, 3, 3)]
    assert curve.length == 9


def test_no_threshold_ever_falls_and_one_moves_at_a_time():
    curve = search_thresholds(PricedEngine(lambda row: (row @ [0.3, 0.2, 0.1]) ** 2), CANDIDATES, ANY, 10.0)
    rises = np.diff(rows_of(curve), axis=0)
    assert (rises >= 0).all()
    assert ((rises > 0).sum(1) == 1).all()


def test_work_saved_counts_as_well_as_harm():
    """The first layer does the same harm per candidate, but what it skips is a tenth."""
    engine = PricedEngine(lambda row: row.sum() * 0.1, lambda row: row / 3 * [0.1, 1, 1])
    curve = search_thresholds(engine, CANDIDATES, ANY, 10.0)
    assert rows_of(curve)[6].tolist() == [0, 3, 3]


def test_a_curve_knows_the_skip_ratios_it_reached():
    curve = search_thresholds(PricedEngine(lambda row: row @ [0.5, 0.01, 0.1]), CANDIDATES, ANY, 10.0)
    assert np.allclose(curve.skip_ratios, np.arange(10) / 9)


def test_shares_are_those_of_the_gate_values_that_thresholds_close():
    curve = curve_of(np.array([[0.0, 0.0], [0.5, 0.0], [0.5, 9.0]]))
    shares = skipped_shares(curve, [np.array([0.0, 0.2, 0.5, 0.9]), np.array([1.0, 2.0])])
    assert shares.tolist() == [[0, 0], [0.75, 0], [0.75, 1]]


def test_what_a_layers_closing_makes_useless_falls_with_it():
    """The first layer is read by the second alone: dear while that lives, and free as soon as it is closed."""

    def harm(row):
        return row[1] * 0.01 + row[0] * (0.5 if row[1] < 3 else 0) + row[2] * 0.05

    curve = search_thresholds(PricedEngine(harm), CANDIDATES, ANY, 10.0)
    assert [tuple(knot) for knot in rows_of(curve)[[3, 6]]] == [(0, 3, 0), (3, 3, 0)]


def test_a_price_that_has_risen_is_looked_at_again():
    """The first two layers stand in for each other: after one has fallen the other is no longer cheap."""

    def harm(row):
        return 0.01 * (row[0] + row[1]) + row[0] * row[1] * 0.5 + row[2] * 0.1

    curve = search_thresholds(PricedEngine(harm), CANDIDATES, ANY, 10.0)
    assert sorted(rows_of(curve)[6]) == [0, 3, 3]
    assert rows_of(curve)[6][2] == 3


def test_it_stops_at_the_largest_cost():
    curve = search_thresholds(PricedEngine(lambda row: row.sum()), CANDIDATES, ANY, 0.05)
    assert 1 <= curve.length < 9


def test_it_looks_at_few_settings_for_a_move():
    engine = PricedEngine(lambda row: row @ [0.5, 0.01, 0.1])
    curve = search_thresholds(engine, CANDIDATES, ANY, 10.0)
    runs_over_the_images = len(engine.rows) / np.ceil(IMAGES / engine.batch_limit)
    assert runs_over_the_images / curve.length <= 6


def test_between_knots_thresholds_are_linear():
    curve = curve_of(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 4.0]]))
    assert curve.at(0).thresholds == (0, 0)
    assert curve.at(0.25).thresholds == (0.25, 0)
    assert curve.at(1.5).thresholds == (1, 2)
    assert curve.at(2).thresholds == (1, 4)


def test_a_curve_of_exact_alone_stays_there():
    assert curve_of(np.zeros((1, 3))).at(0).thresholds == (0, 0, 0)


def test_candidates_are_quantiles_of_the_gates_and_end_with_what_closes_them(random_bundle, draw_images):
    bundle = random_bundle()
    split = Split(draw_images(16), np.zeros(16, dtype=np.int64))
    candidates = gate_candidates(gate_values(bundle.network, bundle.preprocessing, split))
    engine = compile_network(bundle, engine="reference")
    assert len(candidates) == len(engine.shape.layers)
    assert all((np.diff(layer) > 0).all() and layer[0] > 0 for layer in candidates)
    for column, layer in enumerate(candidates):
        row = np.zeros(len(candidates))
        row[column] = layer[-1]
        output = engine.run(split.images, uniform(16, row.tolist()))
        assert output.kept[:, column].sum() == 0
        row[column] = layer[0]
        skipped = engine.shape.layer_skip_ratios(engine.run(split.images, uniform(16, row.tolist())).kept)
        assert 0 < skipped[:, column].mean() <= 1


class LeavingEngine(PricedEngine):
    """Three layers, and an exit before the last of them that a share of the images takes, at no harm above 0.5."""

    shape = NetworkShape(PricedEngine.shape.layers, 0, exits=(EarlyExit(1, 2, 0),))

    def __init__(self):
        super().__init__(lambda row: row @ [0.5, 0.5, 0.5])

    def run(self, images, options):
        out = super().run(images, options)
        share = 1 - float(options.exit_confidence[0, 0])
        out.kept[:, 2] = np.round(out.kept[:, 2] * (1 - share))
        logits = out.logits - [[max(0.0, share - 0.5), 0.0]]
        return replace(out, logits=logits, exit_index=np.full(len(images), int(share < 1), np.int64))


def test_an_exit_that_does_no_harm_is_widened_before_any_layer_is_touched():
    curve = search_thresholds(LeavingEngine(), [*CANDIDATES, np.array([0.9, 0.7, 0.5, 0.2, 0.0])], ANY, 10.0)
    assert [tuple(row) for row in rows_of(curve)[:4]] == [
        (0, 0, 0, 1), (0, 0, 0, 0.9), (0, 0, 0, 0.7), (0, 0, 0, 0.5),
    ]  # fmt: skip
    assert (np.diff(rows_of(curve)[:, 3]) <= 0).all()
    assert (np.diff(rows_of(curve)[:, :3], axis=0) >= 0).all()


def test_exits_are_tried_at_the_confidences_that_images_have():
    class Confident(LeavingEngine):
        def run(self, images, options):
            out = super().run(images, options)
            return replace(out, logits=np.linspace(0, 6, len(images))[:, None] * [1, 0])

    (candidates,) = exit_candidates(Confident(), ANY)
    assert (np.diff(candidates) < 0).all()
    assert candidates[-1] == 0
    assert 0.9 < candidates[0] < 1
    assert min(candidates[:-1]) >= 0.5


def test_confidences_close_to_one_are_told_apart():
    class Certain(LeavingEngine):
        def run(self, images, options):
            out = super().run(images, options)
            return replace(out, logits=np.linspace(10, 14, len(images))[:, None] * [1, 0])

    (candidates,) = exit_candidates(Certain(), ANY)
    assert len(candidates) > 5
    assert (candidates[:-1] > 0.9999).all()
    assert (candidates < 1).all()


class BlocksEngine(PricedEngine):
    """The first two layers are one block's."""

    shape = NetworkShape(
        tuple(
            replace(layer, name=name)
            for layer, name in zip(PricedEngine.shape.layers, ("blocks.0.a", "blocks.0.b", "blocks.1.a"), strict=True)
        ),
        0,
    )


def test_a_block_is_closed_at_once_where_no_layer_of_it_is_worth_that_alone():
    """The second layer's closing makes the first one useless; alone it saves too little for what it costs."""

    def harm(row):
        return 0.1 * (row[1] > 0) + (0.5 if row[0] and row[1] < 3 else 0) + 0.05 * (row[2] > 0)

    curve = search_thresholds(BlocksEngine(harm), CANDIDATES, ANY, 10.0)
    closed = [(0, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 0), (1, 3, 0), (2, 3, 0), (3, 3, 0)]
    assert [tuple(knot) for knot in rows_of(curve)[:7]] == closed
    assert np.allclose(curve.skip_ratios[:7], np.arange(7) / 9)
    alone = search_thresholds(BlocksEngine(harm), CANDIDATES, ANY, 10.0, closing="layers")
    assert rows_of(alone)[1].tolist() == [0, 0, 1]


def test_layers_are_closed_last_where_that_is_asked_for():
    """However little it would cost to close the first one, and however much to go on with the third."""
    engine = PricedEngine(lambda row: row @ [0.001, 0.1, 1.0])
    curve = search_thresholds(engine, CANDIDATES, ANY, 10.0, closing="last")
    assert [tuple(knot) for knot in rows_of(curve)[[2, 4, 6]]] == [(2, 0, 0), (2, 2, 0), (2, 2, 2)]
    assert [tuple(knot) for knot in rows_of(curve)[7:]] == [(3, 2, 2), (3, 3, 2), (3, 3, 3)]


def test_what_saves_nothing_does_not_keep_layers_from_closing():
    """The third layer's gate is the same for all positions: its first candidates skip nothing."""
    engine = PricedEngine(lambda row: row.sum() * 0.1, lambda row: np.where([False, False, True], row >= 3, row / 3))
    curve = search_thresholds(engine, CANDIDATES, ANY, 10.0, closing="last")
    assert [tuple(knot) for knot in rows_of(curve)[[4, 6]]] == [(2, 2, 0), (3, 3, 0)]
    assert rows_of(curve)[-1].tolist() == [3, 3, 3]


def test_not_all_images_leave_before_layers_are_closed():
    exits = np.array([0.9, 0.7, 0.5, 0.2, 0.0])
    curve = search_thresholds(LeavingEngine(), [*CANDIDATES, exits], ANY, 10.0, closing="last")
    closed = (rows_of(curve) == [3, 3, 3, 0]).any(axis=1).argmax()
    assert rows_of(curve)[closed - 1].tolist() == [2, 2, 2, 0.2]


def test_what_may_not_move_is_not_closed_with_its_block():
    curve = search_thresholds(
        BlocksEngine(lambda row: row.sum() * 0.1), [CANDIDATES[0], np.array([]), CANDIDATES[2]], ANY, 10.0
    )
    assert rows_of(curve)[-1].tolist() == [3, 0, 3]
    assert curve.length == 6


def test_the_cheapest_known_move_is_made_after_a_few_looks():
    """Prices that change with every move, so that what was looked at last is seldom the cheapest."""
    random = np.random.default_rng(3)
    noise = {}

    def harm(row):
        return float(row.sum() * 0.1 + noise.setdefault(tuple(row), random.uniform(0, 0.5)))

    candidates = [np.array([1.0, 2.0, 3.0])] * 12
    engine = PricedEngine(harm)
    engine.shape = NetworkShape(
        tuple(GatedConvolution(f"{number}.a", Convolution(1, 1, 1, 1, 3000), 1, 1) for number in range(12)), 0
    )
    made = []

    class Watched(_Greedy):
        def _make(self, columns):
            current = [move.price for move in self._moves.values() if move.seen == len(self.rows)]
            made.append((self._moves[columns].price, min(current)))
            super()._make(columns)

    search = Watched(engine, candidates, ANY, closing="layers")
    while search.advance():
        pass
    assert len(made) == 36
    assert all(price == cheapest for price, cheapest in made)


def test_a_move_of_infinite_cost_does_not_end_the_search():
    def harm(row):
        return np.inf if row[0] > 0 else float(row.sum() * 0.1)

    curve = search_thresholds(PricedEngine(harm), CANDIDATES, ANY, 10.0)
    assert rows_of(curve)[-1].tolist() == [0, 3, 3]
