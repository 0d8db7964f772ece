"""The shipped model gives the reference's labels, and in int8 its bits, on images that it was not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lccl
from lccl.engines.cpu.engine import instruction_sets
from lccl.plan.run import RunOptions
from tests.conftest import every_unseen_image, needs_unseen_images
from tests.lccl.bits import same_bits
from tests.lccl.cpu.networks import INT8

HOME = Path(__file__).parents[3]
MODEL = HOME / "models" / "resnet20-cifar10"
pytestmark = [
    pytest.mark.skipif(not MODEL.is_dir(), reason="the shipped model is not here"),
    needs_unseen_images,
]
FASTEST = {precision: (name, precision) for name, precision in reversed(instruction_sets()) if precision != "int8"}
# Share of equal labels. bfloat16 moves gates by 2⁻⁸ of themselves, over some thresholds.
EQUAL = {"fp32": 0.999, "bf16": 0.99}
EVERY = 32  # of 8,000 images, over all classes


@pytest.fixture(scope="module")
def shipped():
    return lccl.load(MODEL)


@pytest.fixture(scope="module")
def unseen(shipped):
    return np.stack([shipped.preprocessing.decode(content, 32 * 32) for content, _ in every_unseen_image(EVERY)])


@pytest.fixture(scope="module")
def expected(shipped, unseen):
    """The reference's logits of each image at the first, a middle and the last operating point."""
    reference, points = lccl.compile(shipped, engine="reference"), shipped.table.points
    chosen = points[0], points[len(points) // 2], points[-1]
    parts = np.array_split(unseen, len(unseen) // 50)
    return {
        point: np.concatenate(
            [reference.run(part, RunOptions.of([point.setting] * len(part))).logits for part in parts]
        )
        for point in chosen
    }


@pytest.mark.parametrize("precision", FASTEST)
def test_labels_are_the_references(precision, shipped, unseen, expected, make_cpu):
    plan = lccl.compile(shipped, engine="reference").plan
    engine = make_cpu(plan, FASTEST[precision], threads=2)
    equal = [
        engine.run(unseen, RunOptions.of([point.setting] * len(unseen))).logits.argmax(1) == logits.argmax(1)
        for point, logits in expected.items()
    ]
    assert len(unseen) == 250
    assert np.mean(equal) >= EQUAL[precision]


@pytest.fixture(scope="module")
def expected_bits(shipped, unseen):
    """In int8: the reference engine, and by point its answers."""
    reference = lccl.compile(shipped, engine="reference", precision="int8")
    points = shipped.in_precision("int8").table.points
    chosen = points[0], points[len(points) // 2], points[-1]
    return reference, {point: reference.run(unseen, _asked(point, unseen)) for point in chosen}


def _asked(point, images):
    return RunOptions.of([point.setting] * len(images), want_masks=True)


@pytest.mark.parametrize("arithmetic", INT8, ids="-".join)
def test_int8_gives_the_references_bits(arithmetic, unseen, expected_bits, make_cpu):
    reference, answers = expected_bits
    engine = make_cpu(reference.plan, arithmetic, threads=2)
    for point, expected in answers.items():
        same_bits(engine.run(unseen, _asked(point, unseen)), expected)
