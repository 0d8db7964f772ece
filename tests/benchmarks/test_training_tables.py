"""The tables of the pages on training: verdicts, and what was not reached."""

from benchmarks.training_tables import (
    attached_table,
    floors_table,
    fronts_table,
    lost_table,
    one_ratio_table,
    paths_table,
    recipes_table,
    saved_table,
)


def test_an_aim_inside_the_interval_is_neither_reached_nor_missed():
    row = {"accuracy": 0.8, "goal": 1.0}
    rows = [
        {"skip_ratio": 0.3, "lost": 0.9, "interval": [0.1, 1.5], "met": True} | row,
        {"skip_ratio": 0.4, "lost": 1.2, "interval": [0.6, 1.8], "met": True} | row,
        {"skip_ratio": 0.5, "lost": 1.9, "interval": [1.1, 2.5], "met": False} | row,
        {"skip_ratio": 0.9, "out_of_reach": 0.7},
    ]
    verdicts = [line.split("|")[-2].strip() for line in list(lost_table({"lost": rows}))[2:]]
    assert verdicts == ["reached", "not excluded", "missed", "missed"]


def test_a_broken_floor_is_called_broken():
    row = {"floor": 1.0, "point": "p40", "skip_ratio": 0.4, "lost": 2.0, "interval": [1.5, 2.5], "met": False}
    assert list(floors_table({"floors": [row]}))[-1].endswith("| broken |")


def test_variants_without_a_reading_show_a_dash():
    def result(variant, at):
        return {
            "variant": variant, "description": variant, "seed": 0, "exact_accuracy": 0.8, "accuracy_at": at,
            "layers": 18, "layers_that_vary_at_0.45": 12,
        }  # fmt: skip

    lines = list(recipes_table([result("random", {"0.3": 0.7}), result("path", {"0.3": 0.8, "0.4": 0.75})]))
    assert lines[2].startswith("| path |")
    assert "| 80.0 | 75.0 |" in lines[2]
    assert "| 70.0 | – |" in lines[3]


def test_ways_that_end_early_show_a_dash_too():
    row = {"exact_accuracy": 0.8, "layers": 18, "layers_that_vary_at_0.45": 12}
    ways = [
        {"way": "one", "accuracy_at": {"0.3": 0.7}} | row,
        {"way": "each", "accuracy_at": {"0.3": 0.8, "0.4": 0.75}} | row,
    ]
    assert list(paths_table({"ways": ways}))[2:] == [
        "| one | 80.0 | 70.0 | – | 12 of 18 |",
        "| each | 80.0 | 80.0 | 75.0 | 12 of 18 |",
    ]


def test_an_attached_network_is_judged_where_there_is_an_aim():
    row = {"accuracy": 0.8, "trained_in_accuracy": 0.82, "behind": 2.0, "interval": [1.2, 2.8]}
    rows = [
        {"skip_ratio": 0.3, "goal": None, "met": True} | row,
        {"skip_ratio": 0.4, "goal": 0.5, "met": False} | row,
        {"skip_ratio": 0.7, "out_of_reach": 0.66},
    ]
    lines = list(attached_table({"attached": rows}))[2:]
    assert [line.split("|")[-3:-1] for line in lines] == [["  ", "  "], [" ≤ 0.5 ", " missed "], [" ", " "]]


def test_only_a_whole_interval_below_is_below():
    row = {"skip_ratio": 0.3, "accuracy": 0.8, "alone_accuracy": 0.82}
    rows = [
        {"ahead": -0.5, "interval": [-1.2, 0.2], "met": True} | row,
        {"ahead": -2.0, "interval": [-2.8, -1.2], "met": False} | row,
    ]
    assert [line.split("|")[-2].strip() for line in list(one_ratio_table({"rows": rows}))[2:]] == ["not below", "below"]


def test_the_tables_say_what_was_reached_and_what_was_missed():
    place = {"point": "p40", "lost": 0.2, "interval": [-0.1, 0.5], "work": 0.7, "goal": 0.65, "met": False}
    half = {"point": "p50", "batch": 32, "threads": 2, "macs": 0.5, "time": 0.58, "quartiles": [0.55, 0.58, 0.6]}
    lines = list(saved_table({"no_loss": [place], "latency": [half | {"goal": 0.6, "met": True}]}))
    assert lines[2].endswith("| 0.70 | ≤ 0.65 at no loss | missed |")
    assert lines[3].endswith("| 0.58 | ≤ 0.6 | reached |")
    row = {"work": 0.3, "both": 0.8, "gates": 0.79, "ahead_of_gates": 1.0, "interval_gates": [0.5, 1.5]}
    out_of_reach = {"exits": None, "ahead_of_exits": None, "interval_exits": []}
    assert list(fronts_table({"curves": [row | out_of_reach]}))[-1].startswith("| 0.3 | 80.0 | 79.0 | +1.00 (+0.50")
