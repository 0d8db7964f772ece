"""The self-test: drawn the same everywhere, right on every engine, and a sign of any damage to the weights."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from lccl.bundle import self_test
from lccl.bundle.format import load, save
from lccl.compiler import compile_network
from lccl.errors import BundleError


@pytest.fixture
def recorded(bundle):
    engine = compile_network(bundle, "cpu", engine="reference")
    return replace(bundle, self_test=self_test.record(bundle, engine))


def test_the_images_are_the_same_everywhere():
    images = self_test.draw(0, 2, 32, 32)
    assert images.shape == (2, 32, 32, 3)
    assert hashlib.sha256(images.tobytes()).hexdigest().startswith("a8441d05")


@pytest.mark.parametrize(("engine", "precision"), [("cpu", "fp32"), ("reference", "fp32"), ("reference", "fp64")])
def test_every_engine_passes(recorded, engine, precision):
    exact = self_test.check(compile_network(recorded, "cpu", precision, engine), recorded)
    assert exact == pytest.approx(np.array(recorded.self_test["logits"]["exact"]), rel=1e-3, abs=1e-3)


def test_other_weights_do_not(recorded):
    next(recorded.network.parameters()).data.mul_(1.05)
    with pytest.raises(BundleError, match="differ by"):
        self_test.check(compile_network(recorded, "cpu"), recorded)


def test_a_record_of_other_images_does_not(recorded):
    few = {"seed": recorded.self_test["seed"], "logits": {"exact": recorded.self_test["logits"]["exact"][:1]}}
    with pytest.raises(BundleError, match=r"the self-test's record at exact is \(1, 10\), not \(\d+, 10\)"):
        self_test.check(compile_network(recorded, "cpu", engine="reference"), replace(recorded, self_test=few))


def test_weights_that_overflow_do_not(bundle):
    bundle.network.classifier.weight.data.fill_(3e38)
    with pytest.raises(BundleError, match="logits at exact are not finite"):
        self_test.check(compile_network(bundle, "cpu", engine="reference"), bundle)


def test_a_bundle_without_a_record_needs_finite_logits_only(bundle):
    assert np.isfinite(self_test.check(compile_network(bundle, "cpu"), bundle)).all()


def test_a_bundle_keeps_it(recorded, tmp_path):
    save(recorded, tmp_path)
    assert load(tmp_path).self_test == recorded.self_test


@pytest.mark.parametrize(
    "broken",
    [
        {"seed": 0}, {"seed": -1, "logits": {}}, {"seed": 0, "logits": {"exact": [[1.0]]}},
        {"seed": 0, "logits": {"exact": "no"}}, {"seed": 0, "logits": {"exact": []}}, {"seed": 0, "logits": [1]},
    ],
)  # fmt: skip
def test_an_unreadable_record_is_refused(bundle, tmp_path, broken):
    save(replace(bundle, self_test=broken), tmp_path)
    with pytest.raises(BundleError, match="lccl self-test"):
        load(tmp_path)
