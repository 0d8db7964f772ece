"""Images in every mode, depth, transparency, orientation and format, and damage to them; drawn here."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIZE = (24, 20)  # width, height


def smooth(channels=3, size=SIZE, seed=0):
    """Pixels that JPEG hardly changes, uint8 [height, width, channels]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, channels), dtype=np.uint8)
    planes = [
        Image.fromarray(coarse[..., channel]).resize(size, Image.Resampling.BICUBIC) for channel in range(channels)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation, order="<"):
    """EXIF data that holds an orientation, and a text where a rational number belongs."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    entries = struct.pack(order + "H", 2)
    entries += struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    entries += struct.pack(order + "HHI4s", 0x011A, 2, 4, b"abc\0")
    return b"Exif\0\0" + head + entries + bytes(4)


def chunk(kind, data, checksum=None):
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(samples, depth, colour_type, *extra, end=True):
    """A PNG of samples [height, width, channels] of ``depth`` bits; ``extra`` chunks follow the header."""
    height, width, _ = samples.shape
    if depth == 16:
        rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    else:
        bits = np.unpackbits(samples.astype(np.uint8)[..., None], axis=3)[..., 8 - depth :]
        rows = np.packbits(bits.reshape(height, -1), axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    parts = [b"\x89PNG\r\n\x1a\n", header, *extra, chunk(b"IDAT", zlib.compress(data))]
    return b"".join([*parts, chunk(b"IEND", b"") if end else b""])


def with_segment(jpeg, marker, data):
    """A JPEG with an application segment after its start."""
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data + jpeg[2:]


def with_webp_chunk(webp, kind, data, flag):
    """An extended WebP with a chunk of metadata."""
    image = Image.open(io.BytesIO(webp))
    extended = struct.pack("<4sI4B", b"VP8X", 10, flag, 0, 0, 0)
    extended += (image.width - 1).to_bytes(3, "little") + (image.height - 1).to_bytes(3, "little")
    body = b"WEBP" + extended + webp[12:] + kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body
