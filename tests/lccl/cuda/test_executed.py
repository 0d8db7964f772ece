"""What tiles come to is counted once, and shared out without a rest."""

from __future__ import annotations

import numpy as np
import pytest

from lccl.engines.cuda.executed import rows_of_tiles, shared_out


@pytest.mark.parametrize("active", [[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]])
@pytest.mark.parametrize("positions", [4, 100, 128, 300])
def test_every_tile_with_an_active_image_counts_once(active, positions):
    active = np.array(active, dtype=bool)
    tiles = {
        row // 128 for image in np.flatnonzero(active) for row in range(image * positions, (image + 1) * positions)
    }
    rows = rows_of_tiles(active, positions, 128)
    assert rows.sum() == 128 * len(tiles)
    assert not rows[~active].any()


def test_rows_are_shared_out_by_what_images_keep_layer_by_layer():
    kept = np.array([[10, 0], [30, 0], [0, 0]])
    assert shared_out(np.array([64, 0]), kept).tolist() == [[16, 0], [48, 0], [0, 0]]
    assert shared_out(np.int64(64), np.array([1, 1, 1])).sum() == 64
