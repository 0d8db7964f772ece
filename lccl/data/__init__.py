"""Data sets: CIFAR's binary layout, class folders of images, and archives of class folders; larger than memory, too."""

from lccl.data.files import ARCHIVES, IMAGES
from lccl.data.load import load_dataset
from lccl.data.splits import Dataset, HeldOut, Split, hold_out

__all__ = ["ARCHIVES", "IMAGES", "Dataset", "HeldOut", "Split", "hold_out", "load_dataset"]
