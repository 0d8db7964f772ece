"""What it means that two engines answer alike to the bit."""

from __future__ import annotations

import numpy as np

from lccl.plan.run import RunOutput


def same_bits(found: RunOutput, expected: RunOutput, about: str = "") -> None:
    """Raises AssertionError unless logits, exits, kept counts and masks, which both have, are equal to the bit."""
    assert found.masks is not None
    assert expected.masks is not None
    assert np.array_equal(found.logits.view(np.uint32), expected.logits.view(np.uint32)), about
    assert np.array_equal(found.exit_index, expected.exit_index), about
    assert np.array_equal(found.kept, expected.kept), about
    assert all(np.array_equal(*masks) for masks in zip(found.masks, expected.masks, strict=True)), about
