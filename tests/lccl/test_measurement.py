"""Measurements cover every image once."""

import numpy as np
import pytest

from lccl.compiler import compile_network
from lccl.data import Split
from lccl.errors import DataError
from lccl.measurement import measure
from lccl.plan.run import Setting
from tests.lccl.settings import uniform


def test_every_image_is_measured_once_with_its_own_label(bundle, draw_images):
    engine = compile_network(bundle)
    images = draw_images(engine.batch_limit + 3)
    setting = Setting((0.3,) * 18)
    heard = []
    single = [measure(engine, Split(images[i : i + 1], np.array([2])), setting) for i in range(len(images))]
    together = measure(engine, Split(images, np.full(len(images), 2)), setting, progress=heard.append)
    assert together.right.tolist() == [bool(one.right[0]) for one in single]
    assert np.array_equal(together.kept, np.concatenate([one.kept for one in single]))
    assert together.accuracy == together.right.mean()
    assert heard == [engine.batch_limit, 3]
    assert together.setting == setting


def test_labels_decide_what_is_right(bundle, draw_images):
    engine, images = compile_network(bundle), draw_images(10)
    predicted = engine.run(images, uniform(10, [0.0] * 18)).logits.argmax(1)
    odd = np.arange(10) % 2 == 1
    found = measure(engine, Split(images, np.where(odd, predicted, (predicted + 1) % 10)), Setting.exact(18))
    assert found.right.tolist() == odd.tolist()
    assert found.accuracy == 0.5


def test_nothing_cannot_be_measured(bundle, draw_images):
    with pytest.raises(DataError, match="no images to measure on"):
        measure(compile_network(bundle), Split(draw_images(0), np.zeros(0, np.int64)), Setting.exact(18))
