"""``lccl sidenet`` and its diagrams."""

import json

import pytest

from lccl.bundle import format as bundles
from tests.lccl.cli.commands import EPOCH, failed, lccl, succeeded


def test_sidenets_before_calibration_are_worth_a_word(model, data, tmp_path):
    shape = ["--after", 2, "--grid", 1, "--hidden", 2, "--epochs", 1, "--engine", "reference"]
    done = lccl("sidenet", "train", model, data, "--out", tmp_path / "hasty", *shape)
    assert "has no operating points yet: SideNets are fitted to exact gates alone" in " ".join(done.output.split())


def test_sidenets_are_written_to_a_new_bundle_with_a_card(leaving, calibrated):
    loaded = bundles.load(leaving)
    assert [(side.spec.after, side.spec.grid, side.spec.hidden) for side in loaded.network.sidenets] == [
        (2, 2, 8),
        (5, 2, 8),
    ]
    assert not len(bundles.load(calibrated).network.sidenets)
    assert "## Early exits" in (leaving / "README.md").read_text()
    assert {"exit 0", "exit 1"} <= set(loaded.self_test["logits"])


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_reliability_diagram_is_drawn(leaving, tmp_path, kind):
    file = tmp_path / f"diagram.{kind}"
    succeeded(lccl("sidenet", "diagram", leaving, "--out", file))
    assert file.stat().st_size > 2000


def test_evaluation_at_given_exit_confidences(leaving, data, tmp_path):
    out = tmp_path / "reached.json"
    succeeded(lccl("evaluate", leaving, data, "--exit-confidence", 0.5, "--exit-confidence", 1, "--out", out))
    low, never = json.loads(out.read_text())["rows"]
    assert low["gated_macs"] <= never["gated_macs"]
    assert never["point"] == "exact"


def test_training_further_leaves_sidenets_behind(leaving, data, tmp_path):
    succeeded(
        lccl("train", data, "--out", tmp_path / "further", "--runs", tmp_path / "runs", "--start", leaving, *EPOCH)
    )
    assert not len(bundles.load(tmp_path / "further").network.sidenets)


def test_a_bundle_without_sidenets_has_no_diagram(calibrated, tmp_path):
    failed(lccl("sidenet", "diagram", calibrated, "--out", tmp_path / "no.svg"), "no SideNets: fit some")


def test_a_diagram_of_another_kind_is_refused(leaving, tmp_path):
    failed(
        lccl("sidenet", "diagram", leaving, "--out", tmp_path / "no.txt"), "use a name that ends in .svg, .png, .pdf"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [(["--after", "9"], "no block 9"), (["--grid", "0"], "parts a side"), (["--lr", "0"], "learning rate")],
)
def test_sidenets_that_cannot_be_fitted(calibrated, data, tmp_path, options, sentence):
    failed(lccl("sidenet", "train", calibrated, data, "--out", tmp_path / "no", *options), sentence)


def test_a_network_without_finite_answers_gets_no_sidenets(calibrated, data, tmp_path):
    wild = bundles.load(calibrated)
    wild.network.stem_norm.weight.fill_(1e30)
    bundles.save(wild, tmp_path / "wild")
    failed(lccl("sidenet", "train", tmp_path / "wild", data, "--out", tmp_path / "no"), "finite")
