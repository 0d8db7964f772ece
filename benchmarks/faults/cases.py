"""The requests of the mixed load, and their images and keys: every form of question, and questions that are none."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
from PIL import Image

from lccl.bench.images import noise_images

SEED = 7


def images(count: int, size: int, kind: str = "JPEG") -> tuple[bytes, ...]:
    """Encoded images of noise, ``size`` pixels square."""
    return tuple(encode(Image.fromarray(pixels), kind) for pixels in noise_images(count, size, SEED).images)


def blank(shade: int, kind: str = "PNG") -> bytes:
    """An image of one shade."""
    return encode(Image.fromarray(np.full((32, 32, 3), shade, np.uint8)), kind)


def large(side: int, kind: str = "JPEG") -> bytes:
    """An image that is small as a file and large in memory; a JPEG less so, since it is decoded reduced."""
    return encode(Image.new("RGB", (side, side), (90, 120, 30)), kind)


def huge() -> bytes:
    """An image of 65,000 × 65,000 pixels, it says."""
    content = bytearray(blank(1, "BMP"))
    content[18:26] = (65_000).to_bytes(4, "little") * 2
    return bytes(content)


def damaged(contents: Sequence[bytes], count: int) -> tuple[bytes, ...]:
    """Copies with bytes changed, cut out, doubled, exchanged for another's, or cut off."""
    chance = random.Random(SEED)
    return tuple(_damage(chance, chance.choice(contents), chance.choice(contents)) for _ in range(count))


def _damage(chance: random.Random, content: bytes, other: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        start = chance.randrange(len(damaged) + 1)
        end = min(len(damaged), start + chance.choice((1, 1, 4, 64)))
        match chance.randrange(5):
            case 0:
                damaged[start:end] = chance.randbytes(end - start)
            case 1:
                del damaged[start:end]
            case 2:
                damaged[start:start] = damaged[start:end]
            case 3:
                damaged[start:end] = other[start:end]
            case _:
                del damaged[max(1, start) :]
    return bytes(damaged)


def encode(image: Image.Image, kind: str, **options: int) -> bytes:
    """An image as a file of that kind."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


CLIENT, OPERATOR, LIMITED = ({"X-API-Key": f"lccl_faults_{name}"} for name in ("client", "operator", "limited"))
LINES = {"client": [], "operator": ["admin = true"], "limited": ['rate = "5/hour"']}


def key_file(folder: Path) -> Path:
    """Write the file that ``--api-keys`` takes."""
    lines = []
    for name, more in LINES.items():
        digest = hashlib.sha256(f"lccl_faults_{name}".encode()).hexdigest()
        lines += [f'[keys."{name}"]', f'sha256 = "{digest}"', *more]
    file = folder / "keys.toml"
    file.write_text("\n".join(lines), encoding="utf-8")
    file.chmod(0o600)
    return file


MODEL = "resnet20-cifar10"
CLASSIFY, INFER = "/v1/classify", f"/v2/models/{MODEL}/infer"
BOUNDARY = "----image"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
JSON, JPEG, PNG = ({"Content-Type": kind} for kind in ("application/json", "image/jpeg", "image/png"))


@dataclass(frozen=True, slots=True)
class Case:
    """Requests of one kind, which differ in their bodies.

    Attributes:
        free: whether the service may choose the operating point.
        status: that each is to have at rest; None for any that does not blame the server.

    """

    name: str
    path: str
    bodies: tuple[bytes, ...]
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"
    weight: float = 1.0
    free: bool = False
    status: int | None = 200

    def with_headers(self, headers: Mapping[str, str]) -> Case:
        """The same with more headers."""
        return replace(self, headers={**self.headers, **headers})


def small_cases(count: int = 8) -> list[Case]:
    """Good questions about small images, in the form that most ask in."""
    return [
        classify("exact", images(count, 32), weight=3),
        classify("sparsity", images(count, 32), sparsity=0.37),
        classify("point", images(count, 32, "PNG"), PNG, operating_point="p45"),
        classify("permission", images(count, 32), free=True, operating_point="exact", max_accuracy_drop=9),
    ]


def good_cases() -> list[Case]:
    """Good questions of every form and protocol."""
    small, photographs = images(8, 32), images(4, 300)
    encoded = [base64.b64encode(image).decode() for image in small]
    documents = [{"image": text, "sparsity": 0.2, "top_k": 3} for text in encoded]
    return [
        *small_cases(),
        classify("floor", small, max_accuracy_drop=2),
        classify("deadline", small, free=True, deadline_ms=400),
        classify("photograph", photographs, sparsity=0.5),
        classify("webp", images(4, 64, "WEBP"), {"Content-Type": "image/webp"}, operating_point="p30"),
        Case("form", CLASSIFY, tuple(form(small[start:] + small[:start], sparsity="0.3") for start in range(4)), FORM),
        Case("many", CLASSIFY, (form([*small] * 6, sparsity="0.3"),), FORM, weight=2),
        Case("form with one bad", CLASSIFY, (form([small[0], b"no image", small[1]]),), FORM, weight=0.3),
        Case("base64", CLASSIFY, _documents(documents), JSON),
        Case("v2 images", INFER, _documents([_infer("image", "BYTES", [1], [text]) for text in encoded]), JSON),
        Case("v2 pixels", INFER, (_pixels(3),), JSON, weight=0.3),
        Case("models", "/v1/models", (b"",), method="GET", weight=0.3),
        Case("v2 model", f"/v2/models/{MODEL}", (b"",), method="GET", weight=0.3),
        Case("v2 config", f"/v2/models/{MODEL}/config", (b"",), method="GET", weight=0.2),
        Case("index", "/v2/repository/index", (b"",), weight=0.2),
        Case("openapi", "/openapi.json", (b"",), method="GET", weight=0.1),
    ]


def bad_cases(mutations: int) -> list[Case]:
    """Malformed requests of known kinds, and good ones damaged at random, so many of each form."""
    small = images(8, 32)
    text = base64.b64encode(small[0]).decode()
    good_json = _documents([{"image": text}, {"images": [text, text], "top_k": 2}])
    good_infer = (*_documents([_infer("image", "BYTES", [1], [text])]), _pixels(1))
    known = [
        classify("not an image", (b"hello", bytes(3000), small[0][100:], b"\x89PNG\r\n\x1a\n")),
        classify("cut off", tuple(image[:-200] for image in small)),
        classify("empty", (b"",)),
        classify("too many pixels", (huge(), large(6000)), {}),
        classify("bad target", small[:1], sparsity="nan"),
        classify("two targets", small[:1], sparsity=0.2, operating_point="exact"),
        classify("no such point", small[:1], operating_point="p99"),
        classify("unknown field", small[:1], colour="red"),
        classify("compressed", (zlib.compress(small[0]),), {"Content-Encoding": "gzip"}),
        classify("other content", small[:1], {"Content-Type": "application/pdf"}),
        Case("unknown model", "/v1/models/..%2F..%2Fetc%2Fpasswd/classify", small[:1], JPEG),
        Case("no such path", "/v3/nothing", (b"",), method="GET"),
        Case("wrong method", CLASSIFY, (b"",), method="PUT"),
        Case("not an administrator", f"/v2/repository/models/{MODEL}/load", (b"",)),
        Case("deep JSON", INFER, (b"[" * 60_000, b'{"inputs":' + b"[" * 9_000 + b"]" * 9_000 + b"}"), JSON),
        Case("bad base64", CLASSIFY, _documents([{"image": "a"}, {"image": "ü"}, {"image": 3}, {}, {"x": text}]), JSON),
        Case("too many images", CLASSIFY, (form([small[0]] * 65),), FORM),
        Case("many fields", CLASSIFY, (form(small[:1], **{f"field{number}": "1" for number in range(99)}),), FORM),
    ]
    seeds = {
        "jpeg": (CLASSIFY, JPEG, small + images(2, 300)),
        "others": (CLASSIFY, PNG, images(4, 32, "PNG") + images(4, 32, "WEBP") + images(2, 32, "GIF")),
        "form": (CLASSIFY, FORM, (form(small[:2], sparsity="0.3"), form(small[:1], top_k="2"))),
        "JSON": (CLASSIFY, JSON, good_json),
        "v2": (INFER, JSON, good_infer),
    }
    mutated = [
        Case(f"damaged {name}", path, damaged(bodies, mutations), headers, weight=3, status=None)
        for name, (path, headers, bodies) in seeds.items()
    ]
    return [replace(one, status=None) for one in known] + mutated


def classify(
    name: str,
    bodies: Sequence[bytes],
    headers: Mapping[str, str] = JPEG,
    weight: float = 1.0,
    free: bool = False,
    status: int | None = 200,
    **quality: float | str,
) -> Case:
    """Images sent as they are, with target and floor as the query."""
    path = f"{CLASSIFY}?{urlencode(quality)}" if quality else CLASSIFY
    return Case(name, path, tuple(bodies), headers, weight=weight, free=free, status=status)


def form(files: Sequence[bytes], **fields: str) -> bytes:
    """A multipart body."""
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name="
    parts = [f'{head}"{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()]
    for content in files:
        parts += [f'{head}"file"; filename="p"\r\nContent-Type: image/jpeg\r\n\r\n'.encode(), content, b"\r\n"]
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def shuffled(cases: Sequence[Case]) -> list[tuple[Case, int]]:
    """Every body of every case once, in an order that is always the same."""
    every = [(case, index) for case in cases for index in range(len(case.bodies))]
    random.Random(SEED).shuffle(every)
    return every


def _documents(values: Sequence[object]) -> tuple[bytes, ...]:
    return tuple(json.dumps(value).encode() for value in values)


def _infer(name: str, datatype: str, shape: Sequence[int], data: Sequence[object]) -> dict[str, object]:
    return {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}


def _pixels(count: int) -> bytes:
    images = np.asarray(noise_images(count, 32, SEED).images)
    return json.dumps(_infer("pixels", "UINT8", list(images.shape), images.reshape(-1).tolist())).encode()
