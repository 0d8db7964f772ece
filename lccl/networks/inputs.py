"""Images → a network's input in PyTorch, for training and calibration; engines normalise by their plan."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lccl.preprocessing import Statistics

USUAL_SIZE, FEWEST = 32, 8


def images_at_once(size: int, usual: int) -> int:
    """How many images of ``size`` pixels a side go through a network at once where ``usual`` of 32 × 32 do.

    So memory stays the same.
    """
    return max(FEWEST, usual * USUAL_SIZE**2 // size**2) if size > USUAL_SIZE else usual


def normalise(images: NDArray[np.uint8], statistics: Statistics, device: torch.device | str = "cpu") -> Tensor:
    """uint8 [N, H, W, 3] → float32 [N, 3, H, W] on the device, with mean 0 and deviation 1 per channel."""
    mean, std = (torch.tensor(values, device=device) for values in statistics)
    return ((torch.from_numpy(images).to(device).float() / 255 - mean) / std).permute(0, 3, 1, 2)
