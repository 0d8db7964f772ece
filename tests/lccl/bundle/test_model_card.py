"""The model card repeats the bundle's figures and invents none."""

from dataclasses import replace

import pytest

from lccl.bundle.model_card import write_card
from lccl.bundle.training_record import (
    AccuracyRecord,
    DataRecord,
    EarlierRecord,
    TrainingRecord,
    TwinRecord,
)
from lccl.networks import Architecture


def run_of(epochs, **parts):
    return TrainingRecord(
        recipe={"batch": 128, "precision": "fp32", "seed": 0},
        data=DataRecord(40000, 5000, 5000, "ab", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
        machine={"python": "3.11", "torch": "2.11", "device": "x86_64", "threads": 1},
        epochs=({},) * epochs,
        **parts,
    )


def card(bundle, tmp_path):
    write_card(bundle, tmp_path)
    return (tmp_path / "README.md").read_text()


def test_every_point_has_a_row_with_its_figures(bundle, tmp_path):
    text = card(bundle, tmp_path)
    names = {point.name for point in bundle.table.points}
    rows = [line for line in text.splitlines() if line.startswith("| ") and line.split(" ")[1] in names]
    assert len(rows) == len(bundle.table.points)
    for row, point in zip(rows, bundle.table.points, strict=True):
        assert row.startswith(f"| {point.name} | {point.skip_ratio:.3f} |")
        assert f"| {100 * point.accuracy:.2f} (" in row
        assert row.endswith(f"| {point.drop_bound:.2f} |")
    assert "Plain twin: 40,551,040 MACs" in text
    assert "on 5,000 held-out images" in text


def test_the_twin_is_named_when_it_is_known(bundle, tmp_path):
    twin = TwinRecord("1", 0.915, (0.907, 0.922), AccuracyRecord(8000, 0.91), epochs=3)
    known = card(replace(bundle, training=run_of(3, plain_twin=twin)), tmp_path)
    shorter = card(replace(bundle, training=run_of(3, plain_twin=replace(twin, epochs=2))), tmp_path)
    assert "91.50 % (90.70 – 92.20)" in known
    assert "91.00 % of 8,000 test images" in known
    assert "The plain twin, trained with the same budget, has" in known
    assert "The plain twin has" in shorter
    assert "trained with the same budget" not in card(bundle, tmp_path)


def test_epochs_of_all_earlier_runs_are_counted(bundle, tmp_path):
    first = run_of(20)
    second = run_of(8, earlier=EarlierRecord("1", first))
    third = run_of(16, earlier=EarlierRecord("2", second))
    assert "28 epochs, and 16 more as recorded, over" in card(replace(bundle, training=third), tmp_path)
    assert "20 epochs, and 8 more as recorded, over" in card(replace(bundle, training=second), tmp_path)
    assert "\n20 epochs over" in card(replace(bundle, training=first), tmp_path)


@pytest.mark.parametrize(("points", "shown"), [(3, ["p0", "p1", "p2"]), (9, ["p0", "p2", "p4", "p6", "p8"])])
def test_layers_are_shown_at_five_points_at_most(bundle, tmp_path, points, shown):
    spread = {f"p{number}": [[0.01 * number, 0.5]] for number in range(points)}
    calibration = {"layers": ["blocks.0.conv1"], "skip_ratio_mean_std": spread}
    text = card(replace(bundle, calibration=calibration), tmp_path)
    assert f"| layer | {' | '.join(shown)} |" in text
    assert f"| blocks.0.conv1 | {' | '.join(f'{0.01 * int(name[1]):.2f} ± 0.50' for name in shown)} |" in text


def test_unusual_gates_are_named(random_bundle, tmp_path):
    usual, odd = Architecture("resnet20", "pre"), Architecture("resnet20", "pre", placement="bef-aft", gate_norm=False)
    assert "pre-activation blocks, shared gates, 10" in card(random_bundle(usual), tmp_path)
    assert "shared gates placed bef-aft without normalisation, 10" in card(random_bundle(odd), tmp_path)


def test_split_convolutions_are_named(random_bundle, tmp_path):
    text = card(random_bundle(Architecture("resnet20", split="1/2")), tmp_path)
    assert "shared gates, 3×3 convolutions split at 1/2, 10 classes" in text
    assert "Plain twin: 14,926,464 MACs; gates: 1,492,992 MACs; means of split convolutions: 96,512 MACs." in text
    assert "split at" not in card(random_bundle(Architecture("resnet20")), tmp_path)


def test_a_plain_twin_has_a_card_too(random_bundle, tmp_path):
    text = card(random_bundle(Architecture("resnet20", gate="none")), tmp_path)
    assert "gates: 0 MACs" in text
    assert "Skip ratio of each layer" not in text
