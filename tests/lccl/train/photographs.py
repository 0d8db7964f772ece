"""A folder of small photographs for tests: three classes told by colour, JPEG, of several sizes."""

import io

import numpy as np
from PIL import Image

COLOURS = ("blue", "green", "red")


def jpeg(random, channel, width, height):
    pixels = random.integers(0, 128, (6, 8, 3), dtype=np.uint8)
    pixels[:, :, channel] += 100
    out = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()


def write(folder, count, classes=COLOURS, part="train", seed=0):
    """``count`` images of each class under ``folder/part/class``."""
    random = np.random.default_rng(seed)
    for channel, label in enumerate(classes):
        (folder / part / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            width, height = (int(side) for side in random.integers(70, 140, 2))
            (folder / part / label / f"{number}.jpg").write_bytes(jpeg(random, 2 - channel % 3, width, height))
    return folder
