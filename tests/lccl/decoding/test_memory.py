"""An image for which there is no memory is not called damaged."""

from __future__ import annotations

import subprocess
import sys

import pytest

DECODE = """
import io, resource, sys
import numpy as np
from PIL import Image
from lccl.decoding.pixels import decode_rgb
from lccl.errors import ImageError

kind, damaged, room = sys.argv[1], sys.argv[2] == "damaged", int(sys.argv[3]) << 20
coarse = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
def encoded(times):
    file = io.BytesIO()
    Image.fromarray(np.kron(coarse, np.ones((times, times, 1), np.uint8))).save(file, kind, lossless=True, method=0)
    return file.getvalue()
decode_rgb(encoded(1), 10**7)  # libraries are loaded
content = encoded(100)
if damaged:
    content = content[: len(content) // 2]
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + room, resource.RLIM_INFINITY))
try:
    print(decode_rgb(content, 10**7).shape)
except ImageError as error:
    print(type(error).__name__)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize(
    ("state", "room", "answer"),
    [("intact", 4, "ImageTooLargeError"), ("intact", 500, "(2000, 3000, 3)"), ("damaged", 500, "DamagedImageError")],
)
def test_missing_memory_is_told_from_damage(kind, state, room, answer):
    run = subprocess.run(
        [sys.executable, "-c", DECODE, kind, state, str(room)], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == answer
