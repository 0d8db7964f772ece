"""A fine-tuned network and one from nothing are compared on the same test images."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.fine_tuning import compared
from lccl.bundle.training_record import TrainingRecord
from lccl.data import hold_out, load_dataset
from lccl.errors import LcclError
from lccl.networks import Architecture
from tests.lccl.train.photographs import write


def test_both_are_measured_and_their_times_added_up(tmp_path, random_bundle):
    write(tmp_path, 10)
    write(tmp_path, 4, part="test", seed=1)
    bundle = random_bundle(Architecture("resnet20", classes=3))
    held = hold_out(load_dataset(tmp_path, bundle.preprocessing).train)
    record = TrainingRecord(epochs=({"seconds": 30.0}, {"seconds": 12.0}))
    tuned = replace(
        bundle, labels=("blue", "green", "red"), splits={"digest": held.digest, "by": "files"}, training=record
    )
    figures = compared(tuned, replace(tuned, training=TrainingRecord()), tmp_path)
    assert figures["images"] == 12
    assert figures["tuned"] == figures["fresh"]
    assert figures["ahead"] == 0
    assert (figures["seconds_tuned"], figures["seconds_fresh"]) == (42, 0)
    with pytest.raises(LcclError, match="same images"):
        compared(tuned, replace(tuned, splits={"digest": "other"}), tmp_path)
