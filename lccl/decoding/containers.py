"""Files of images taken apart: what changes pixels is kept, all other metadata is cut out before a decoder sees it.

So no decoder parses EXIF, XMP, colour profiles or text, and none of them can fail, inflate, or turn an image. Only the
orientation is read, by one rule for all formats: EXIF's tag 0x0112, nothing else.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from lccl.errors import DamagedImageError, NotAnImageError, UnsupportedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
ORIENTATION, IFD_ENTRIES = 0x0112, 1000
EXIF = b"Exif\0\0"
METADATA = frozenset((*range(0xE1, 0xEE), 0xEF, 0xFE))  # JPEG's markers of application segments and comments
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers whose segments decoders read as is done here. Behind others, a stuffed zero say, they may see another file.
USUAL_SEGMENTS = frozenset((0xC0, 0xC1, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))
STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")
AVIF_HEAD_BYTES = 1 << 16
# More parts than any image has: reading them would take the time of a large one. PNGs are often cut in pieces of 8 KiB.
MOST_SEGMENTS, MOST_CHUNKS = 1 << 12, 1 << 16
FILL_BYTES = re.compile(b"\xff+")
OS2_HEADER = 12  # bytes of a BMP's oldest header, whose sizes have 16 bits


@dataclass(frozen=True, slots=True)
class Container:
    """An encoded image without its metadata.

    Attributes:
        kind: Pillow's name of the format, one of ``FORMATS``.
        content: the file, or what is left of it.
        orientation: EXIF's, 1 (upright) to 8.
        transparent: of a PNG in grey or RGB, the one colour that is transparent, as samples of ``depth`` bits.
        depth: bits per sample of a PNG.
        plain: whether it is a WebP of one frame, or a PNG without a transparent colour.
        ended: False for a JPEG of one scan without its end marker. All pixels may be there: a decoder that says when
            some are missing may be given the marker, any other would make up the rest of a file that was cut.

    """

    kind: str
    content: bytes
    orientation: int = 1
    transparent: tuple[int, ...] = ()
    depth: int = 8
    plain: bool = False
    ended: bool = True


def read_container(content: bytes) -> Container:
    """Tell an image's format and cut its metadata out.

    Raises:
        NotAnImageError: none of ``FORMATS``.
        UnsupportedImageError: a form of them that nothing here decodes.
        DamagedImageError: cut short, or a wrong checksum in what makes the pixels.

    """
    if content.startswith(JPEG_START):
        return _jpeg(content)
    if content.startswith(PNG_SIGNATURE):
        return _png(content)
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return _webp(content)
    if content[:6] in (b"GIF87a", b"GIF89a"):
        return Container("GIF", content)
    if content.startswith(b"BM"):
        return Container("BMP", content)
    if content[4:8] == b"ftyp":
        brands = [content[8:12], *(content[at : at + 4] for at in range(16, min(64, len(content)), 4))]
        if any(brand in AVIF_BRANDS for brand in brands):
            return Container("AVIF", content)
        if any(brand in HEIC_BRANDS for brand in brands):
            raise UnsupportedImageError("HEIC is not read here: send the image as JPEG, PNG, WebP or AVIF")
    raise NotAnImageError(f"not an image that is read here ({', '.join(FORMATS)})")


def claimed_size(content: bytes) -> tuple[int, int] | None:
    """Width and height that an image's header claims, to judge what decoding it will take; None where it is not found.

    What it says is not checked and may be wrong (a GIF's frame may be larger than its screen): a decoder finds out.
    """
    if content.startswith(PNG_SIGNATURE) and len(content) >= 24:
        return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    if content[:6] in (b"GIF87a", b"GIF89a") and len(content) >= 10:
        return int.from_bytes(content[6:8], "little"), int.from_bytes(content[8:10], "little")
    if content.startswith(b"BM") and len(content) >= 26:
        width, height = struct.unpack_from("<HH" if content[14] == OS2_HEADER else "<ii", content, 18)
        return abs(width), abs(height)
    if content[4:8] == b"ftyp":
        return _avif_size(content)
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP" and len(content) >= 30:
        return _webp_size(content)
    return _jpeg_size(content) if content.startswith(b"\xff\xd8\xff") else None


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    try:
        for marker, start, end in _jpeg_segments(content):
            if marker in FRAMES and end - start >= 6:
                height, width = struct.unpack_from(">HH", content, start + 1)
                return width, height
    except DamagedImageError:
        return None
    return None


def _avif_size(content: bytes) -> tuple[int, int] | None:
    """The largest of what its items claim, in boxes ``ispe`` near the file's start."""
    places = (found.end() + 4 for found in re.finditer(b"ispe", content[:AVIF_HEAD_BYTES]))
    sizes = [struct.unpack_from(">II", content, place) for place in places if place + 8 <= len(content)]
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def _webp_size(content: bytes) -> tuple[int, int] | None:
    kind = content[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(content[24:27], "little"), 1 + int.from_bytes(content[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def exif_orientation(exif: bytes) -> int:
    """The orientation in EXIF data, 1 to 8; 1 where there is none, or the data is not readable."""
    exif = exif.removeprefix(EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for at in range(start + 2, start + 2 + 12 * min(count, IFD_ENTRIES), 12):
            tag, kind, values = struct.unpack_from(order + "HHI", exif, at)
            if tag == ORIENTATION and values == 1 and kind in (3, 4):
                (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), exif, at + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _jpeg(content: bytes) -> Container:
    """Application segments go, but JFIF's and Adobe's, which say what the components are."""
    kept: list[bytes | memoryview] = []
    kept_to, orientation, frame, scan = 0, 0, -1, 0
    for marker, start, end in _jpeg_segments(content):
        if marker in METADATA:
            if not orientation and marker == 0xE1 and content.startswith(EXIF, start):
                orientation = exif_orientation(content[start:end])
            kept.append(content[kept_to : start - 4])
            kept_to = end
        elif marker in FRAMES and end - start >= 6:
            frame = start
        scan = start
    if frame < 0:
        raise DamagedImageError("the JPEG ends before its pixels")
    precision = content[frame]
    if precision != 8:
        raise UnsupportedImageError(f"a JPEG of {precision} bits per sample is not read here: send one of 8, or a PNG")
    if kept_to:
        kept.append(memoryview(content)[kept_to:])
    ended = not _is_one_scan(content, frame, scan) or content.find(JPEG_END, max(scan, len(content) - 64)) >= 0
    return Container("JPEG", b"".join(kept) if kept else content, orientation or 1, ended=ended)


def first_scan(content: bytes) -> tuple[int, bool]:
    """Where a JPEG's first scan begins, and whether it is the only one; its length and False where that is not sure."""
    frame = scan = 0
    try:
        for marker, start, end in _jpeg_segments(content):
            if marker not in USUAL_SEGMENTS:
                return len(content), False
            if marker in FRAMES and end - start >= 6:
                frame = start
            scan = start
    except DamagedImageError:
        return len(content), False
    return scan, frame > 0 and _is_one_scan(content, frame, scan)


def _is_one_scan(content: bytes, frame: int, scan: int) -> bool:
    """Whether a sequential JPEG's first scan has all of its components: decoders refuse any other behind it."""
    kind, components = content[frame - 3], content[frame + 5]
    return kind in (0xC0, 0xC1) and components < 4 and content[scan] == components


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Markers up to the first scan, with where their segments start and end."""
    at, size = 2, len(content)
    for _ in range(MOST_SEGMENTS):
        if at + 4 > size:
            break
        if content[at] != 0xFF:
            raise DamagedImageError("the JPEG has bytes where a marker belongs")
        marker = content[at + 1]
        if marker == 0xFF and (fill := FILL_BYTES.match(content, at)) is not None:
            at = fill.end() - 1
        elif marker in STANDALONE:
            at += 2
        else:
            end = at + 2 + (content[at + 2] << 8) + content[at + 3]
            if end < at + 4 or end > size:
                break
            yield marker, at + 4, end
            if marker == 0xDA:
                return
            at = end
    raise DamagedImageError("the JPEG ends before its pixels")


def _png(content: bytes) -> Container:
    """Chunks that make the pixels stay, and their checksums are verified; a transparent colour is taken out."""
    kept: list[bytes | memoryview] = [PNG_SIGNATURE]
    header, orientation = b"", 1
    transparent: tuple[int, ...] = ()
    for kind, data, chunk in _png_chunks(content):
        if kind == b"eXIf":
            orientation = exif_orientation(bytes(data))
        elif kind == b"IHDR" and len(data) == 13 and not header:
            header = bytes(data)
            kept.append(chunk)
        elif kind == b"tRNS" and header and header[9] in (0, 2):
            if len(data) != (2 if header[9] == 0 else 6):
                raise DamagedImageError("the PNG's transparent colour does not fit its colour type")
            transparent = struct.unpack(f">{len(data) // 2}H", data)
        elif kind in PNG_KEPT:
            kept.append(chunk)
        elif kind[:1].isupper():
            raise UnsupportedImageError(f"a PNG with the chunk {kind.decode('latin-1')} is not read here")
    if not header:
        raise NotAnImageError("not an image that is read here: the PNG has no header")
    depth = header[8]
    transparent = tuple(sample & ((1 << depth) - 1) for sample in transparent)
    return Container("PNG", b"".join(kept), orientation, transparent, depth, plain=not transparent)


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Each chunk's kind, data and whole, as views: to copy megabytes takes other threads' time."""
    view, at, ended = memoryview(content), len(PNG_SIGNATURE), False
    for _ in range(MOST_CHUNKS):
        if ended or at + 12 > len(content):
            break
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        kind, data = content[at + 4 : at + 8], view[at + 8 : end - 4]
        if end > len(content):
            break
        if kind in PNG_KEPT and zlib.crc32(data, zlib.crc32(kind)) != int.from_bytes(content[end - 4 : end], "big"):
            raise DamagedImageError(f"the PNG's chunk {kind.decode()} has a wrong checksum")
        yield kind, data, view[at:end]
        at, ended = end, kind == b"IEND"
    if not ended:
        if at < len(content):
            raise DamagedImageError("the PNG ends early")
        yield b"IEND", view[:0], memoryview(bytes(4) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND")))


def _webp(content: bytes) -> Container:
    kept, orientation, at = [], 1, 12
    size = min(len(content), 8 + int.from_bytes(content[4:8], "little"))
    for _ in range(MOST_CHUNKS):
        if at + 8 > size:
            break
        kind, length = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        end = at + 8 + length + length % 2
        if at + 8 + length > len(content):
            raise DamagedImageError("the WebP ends early")
        data = content[at + 8 : at + 8 + length]
        if kind == b"EXIF":
            orientation = exif_orientation(data)
        elif kind == b"VP8X" and length == 10:
            kept.append(content[at : at + 8] + bytes([data[0] & ~0x2C]) + data[1:])  # no profile, EXIF or XMP
        elif kind not in (b"ICCP", b"XMP "):
            kept.append(content[at:end] + b"\0" * (end - min(end, len(content))))
        at = end
    if len(content) < 8 + int.from_bytes(content[4:8], "little"):
        raise DamagedImageError("the WebP ends early")
    body = b"WEBP" + b"".join(kept)
    moves = any(one.startswith((b"ANIM", b"ANMF")) for one in kept)
    return Container("WEBP", b"RIFF" + struct.pack("<I", len(body)) + body, orientation, plain=not moves)
