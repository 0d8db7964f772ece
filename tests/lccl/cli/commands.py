"""Commands and what they are given."""

import io
import tarfile

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from lccl.cli.main import app

PER_CLASS = 24
EPOCH = ["--epochs", "1", "--batch", "16", "--threads", "1"]


def lccl(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeeded(result):
    assert result.exit_code == 0, result.output
    return result.output


def failed(result, sentence):
    """It ended with status 1, and what it said last is one sentence on what is wrong."""
    text = " ".join(result.output.split())
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert sentence in text.split("error ", 1)[1]
    assert "Traceback" not in text


def write_images(file, parts, seed=0):
    random = np.random.default_rng(seed)
    with tarfile.open(file, "w") as archive:
        for part, count in parts.items():
            for number, label in enumerate(("blue", "green", "red")):
                for index in range(count):
                    pixels = random.integers(0, 128, (32, 32, 3), dtype=np.uint8)
                    pixels[:, :, 2 - number] += 100
                    out = io.BytesIO()
                    Image.fromarray(pixels).save(out, "PNG")
                    member = tarfile.TarInfo(f"{part}/{label}/{index}.png")
                    member.size = out.tell()
                    out.seek(0)
                    archive.addfile(member, out)
    return file
