"""The papers' methods in one table: what was published, what was measured here, and what was not run."""

from __future__ import annotations

import pytest

from benchmarks.paper.overview import overview_lines, places
from tests.benchmarks.paper_results import ROW, TWIN, images, result


def test_what_was_published_of_each_method_is_told_beside_it():
    published = {place.method: place.published for place in places([]) if place.published is not None}
    assert published == {
        "LCCL, gates exactly 0": (34.9, pytest.approx(-0.43), "ResNet-20, CIFAR-10"),
        "SPConv 1/2": (pytest.approx(57.0, abs=0.1), pytest.approx(-0.23), "ResNet-20, CIFAR-10"),
        "SPConv 1/4": (pytest.approx(69.0, abs=0.1), pytest.approx(0.85), "ResNet-20, CIFAR-10"),
        "PFEC": (24.2, 1.06, "ResNet-34, ImageNet"),
        "BWN": (50, 8.5, "ResNet-18, ImageNet"),
        "XNOR-Net": (98.3, 18.1, "ResNet-18, ImageNet"),
    }


def test_a_method_is_placed_by_the_largest_budget_at_which_its_twin_was_trained_too():
    found = [result(TWIN, images(1000, 100), epochs=each) for each in (2, 20)]
    found += [result(ROW, images(1000, wrong), epochs=each) for each, wrong in ((2, 500), (20, 130), (40, 90))]
    (place,) = (one for one in places(found) if one.method == "LCCL, gates exactly 0")
    assert (place.saved, place.lost, place.budget) == (0.25, pytest.approx(3.0), "20 × 5,000")
    assert place.interval[0] < 3.0 < place.interval[1]


def test_methods_that_were_not_trained_say_so_and_have_no_loss():
    lines = "\n".join(overview_lines(places([])))
    assert "| XNOR-Net | 98, +18.10 (ResNet-18, ImageNet) | – | – | – | not run |" in lines
    assert "| LCCL and SideNets | – |" in lines


def test_the_shipped_network_is_placed_against_its_plain_twin(monkeypatch):
    committed = {"any_sparsity": {"twin": {"accuracy": 0.9}}, "rivals_time": None}
    committed["early_exits"] = {"curves": [{"work": work, "gates": 0.89, "exits": 0.8} for work in (0.5, 0.7)]}
    monkeypatch.setattr("benchmarks.results.read", committed.get)
    own = [place for place in places([]) if place.budget != "not run"]
    assert [place.method for place in own] == ["LCCL, thresholds"] * 2 + ["SideNets"] * 2
    assert [place.lost for place in own] == pytest.approx([1, 1, 10, 10])
    committed["early_exits"] = None
    assert all(place.budget == "not run" for place in places([]))
