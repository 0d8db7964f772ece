"""What tiles come to is counted once, and shared out among the images that they are run for."""

from __future__ import annotations

import numpy as np
import pytest

from lccl.engines.cuda.executed import Counting, Product

TILE, MACS = 128, 7


@pytest.mark.parametrize("active", [[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]])
@pytest.mark.parametrize("positions", [4, 100, 128, 300])
def test_every_tile_with_an_active_image_counts_once(active, positions):
    images = np.flatnonzero(active)
    tiles = {row // TILE for image in images for row in range(image * positions, (image + 1) * positions)}
    counting = Counting([[], [Product(positions, TILE, MACS), Product(1, 1, 10)]])
    executed = counting.executed_macs(np.zeros((3, 0), np.int64), np.array(active), np.zeros((1, 4), np.int64))
    assert executed.tolist() == [one and 10 + -(-len(tiles) * TILE * MACS // len(images)) for one in active]


def test_rows_are_shared_out_by_what_images_keep_layer_by_layer():
    kept, listed = np.array([[10, 5, 0], [30, 5, 0], [0, 5, 0]]), np.array([[40, 0], [0, 0], [0, 0]])
    counting = Counting([[Product(100, 64, 1, layer=0), Product(100, 16, 1, layer=2)]])
    assert counting.executed_macs(kept, np.zeros(3, np.int64), listed).tolist() == [16, 48, 0]
