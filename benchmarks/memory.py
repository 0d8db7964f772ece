"""How much memory a data set takes that is far larger than memory: an epoch of training batches, and a measuring pass.

    python -m benchmarks.memory [--images 100000] [--size 224] [--workers 2]

Draws a few photographs, links them under as many names as asked for, reads the folder as ``lccl train`` does, and runs
through an epoch of random parts and through all images as serving sees them. Nothing is trained. The peak is that of
the process and of its decoding processes together, each counted with all that it shares with the others.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks import results
from lccl.bench.images import noise_images
from lccl.data import hold_out, load_dataset
from lccl.train.export import network_input
from lccl.train.loader import batches
from lccl.train.recipe import PHOTOGRAPHS

DRAWN, CLASSES, AT_ONCE = 64, 10, 64


def main() -> None:
    """Measure, print, write the result file."""
    options = results.command_line(
        __doc__,
        results.argument("--images", type=int, default=100_000),
        results.argument("--size", type=int, default=224),
        results.argument("--workers", type=int, default=2),
    ).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), options.images, options.size)
        figures = _figures(Path(folder), options)
    print(results.write("memory", figures))


def _write(folder: Path, images: int, size: int) -> None:
    contents = []
    for number in range(DRAWN):  # one after the other, so that drawing them is not the peak
        out = io.BytesIO()
        Image.fromarray(noise_images(1, size + 32, number).images[0]).save(out, "JPEG", quality=85)
        contents.append(out.getvalue())
    for number, content in enumerate(contents):
        (folder / f"{number}.bin").write_bytes(content)
    for number in range(images):
        place = folder / f"train/{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        os.link(folder / f"{number % DRAWN}.bin", place / f"{number}.jpg")


def _figures(folder: Path, options: argparse.Namespace) -> dict[str, int]:
    dataset = load_dataset(folder, network_input(options.size))
    train = hold_out(dataset.train).train
    parts = sum(len(labels) for _, labels in batches(train, PHOTOGRAPHS, (0.5,) * 3, 0, workers=options.workers))
    whole = sum(len(labels) for _, labels in dataset.train.batches(AT_ONCE))
    own, worker = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "images": options.images,
        "peak_mib": round((own + options.workers * worker) / 1024),
        "process_mib": round(own / 1024),
        "each_worker_mib": round(worker / 1024),
        "pixels_mib": round(options.images * options.size**2 * 3 / (1 << 20)),
        "epoch_images": parts,
        "measured_images": whole,
    }


if __name__ == "__main__":
    main()
