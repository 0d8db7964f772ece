"""Requests to the whole application, in this process: a 500 is a find, and so is an answer that slices change."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from unittest import mock

import numpy as np
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from benchmarks.faults.cases import encode
from benchmarks.server import small_alone
from service.api import json_text
from service.api.v1 import forms
from service.api.v2 import arrays
from service.app import create_app
from service.settings import Settings
from tests.fuzz.damage import damaged

HOME = Path(__file__).parents[2]
PHOTO = encode(Image.open(HOME / "docs" / "example.png").resize((24, 24)), "PNG")  # small: found bodies are printed
MODEL, SIZE = "resnet20-cifar10", 32
BUSY = {429, 504}  # the machine is busy with other things
PASSING = ("request_id", "timing_ms")
FORM_TOKENS = [
    b"--", b"\r\n", b"--XX", b"\r\n--XX", b"\r\n--XX--", b"--XX--\r\n", b"\r", b"\n", b'"', b";", b"=",
    b"name=", b"filename=", b"filename*=", b"Content-Disposition: form-data", b"\r\n\r\n", b"file", b"sparsity",
    b"\xff", b":", b" " * 40, b"\\",
]  # fmt: skip
JSON_TOKENS = [
    b'"', b"\\", b"\\u0000", b"\\u0000 0", b"[", b"]", b"{", b"}", b",", b":", b"null", b"true", b"1e400",
    b"NaN", b"-0", b"\xff", b"[[", b"]]", b"],[", b"0" * 40, b" " * 90, b"A" * 90, b"=", b"\\/", b'"image":',
    b'"data":', b'"parameters":', b'"timeout":1', b'"sparsity":', b"\xef\xbb\xbf", b"\\ud800",
]  # fmt: skip

Request = tuple[str, bytes, dict[str, str]]  # path, body, headers
Answer = tuple[int, Any]


class Application:
    """The service with the small shipped model, its threads running."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._app: FastAPI = create_app(Settings(models=small_alone(), queue_target_ms=1000))
        self._life = self._app.router.lifespan_context(self._app)
        self._runner.run(self._life.__aenter__())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._life.__aexit__(None, None, None))
        self._runner.close()

    def ask(self, request: Request) -> Answer:
        """Status and JSON of the answer to a POST.

        Raises:
            AssertionError: it is a 500, or no JSON.

        """
        status, content = self._runner.run(self._ask(*request))
        assert status < 500 or status in BUSY, f"{status}: {content[:500]!r}"
        size = len(content) if content.endswith(b"}") else content.rindex(b"}]}") + 3
        return status, json.loads(content[:size])

    async def _ask(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
            "raw_path": path.encode(), "root_path": "", "scheme": "http", "query_string": b"", "headers": raw,
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        answer: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            answer.append(message)

        await self._app(scope, receive, send)  # type: ignore[arg-type]
        return answer[0]["status"], b"".join(message.get("body", b"") for message in answer)


@contextmanager
def small_slices() -> Iterator[None]:
    """Small bodies are read in slices, as large ones are."""
    with (
        mock.patch.multiple(json_text, SHORT_BYTES=64, LONG_BYTES=48, TEXT_SLICE=40, PIECES_A_TURN=8),
        mock.patch.object(arrays, "SLICE", 24),
        mock.patch.object(forms, "SLICE", 64),
    ):
        yield


def check(application: Application, request: Request) -> None:
    """Ask twice, the second time with everything in slices.

    Raises:
        AssertionError: a 500, or an answer that only slices give or that differs with them.

    """
    status, answer = application.ask(request)
    with small_slices():
        sliced_status, sliced = application.ask(request)
    if sliced_status == 200 and status not in BUSY:
        assert status == 200, f"in slices 200, else {status}: {answer}"
        for name in PASSING:
            answer.pop(name, None), sliced.pop(name, None)
        assert sliced == answer


@contextmanager
def multipart(save: Callable[[bytes], None]) -> Iterator[Callable[[], None]]:
    """Damaged forms."""
    contents = damaged(list(_forms()), FORM_TOKENS)
    boundaries = st.sampled_from([*["XX"] * 12, '"XX"', "X", "", "XX; boundary=YY", "x" * 300, '"X\\"X"', "é", "--"])

    @given(contents, boundaries)
    def test(body: bytes, boundary: str) -> None:
        save(body)
        content_type = f"multipart/form-data; boundary={boundary}"
        check(application, ("/v1/classify", body, {"Content-Type": content_type}))

    with Application() as application:
        yield test


@contextmanager
def open_inference(save: Callable[[bytes], None]) -> Iterator[Callable[[], None]]:
    """Damaged requests in JSON and with binary tensors."""
    path = f"/v2/models/{MODEL}/infer"

    def pieces(seed: tuple[bytes, bytes]) -> st.SearchStrategy[tuple[bytes, bytes]]:
        texts, contents = (damaged([part], JSON_TOKENS) | st.just(part) for part in seed)
        return st.tuples(texts, contents)

    @given(st.sampled_from(list(_tensors())).flatmap(pieces), st.sampled_from([0, 0, 0, 0, -1, 1, None]))
    def test(body: tuple[bytes, bytes], shift: int | None) -> None:
        save(b"".join(body))
        size = {} if shift is None else {"Inference-Header-Content-Length": str(max(0, len(body[0]) + shift))}
        check(application, (path, b"".join(body), size))

    with Application() as application:
        yield test


@contextmanager
def json_bodies(save: Callable[[bytes], None]) -> Iterator[Callable[[], None]]:
    """Damaged JSON of v1."""
    text = base64.b64encode(PHOTO).decode()
    seeds = [
        json.dumps(one).encode()
        for one in ({"image": text, "sparsity": 0.3}, {"images": [text, text], "top_k": 3, "operating_point": "exact"})
    ]
    seeds += [one.replace(b"/", b"\\/").replace(b"=", b"\\u003d") for one in seeds]

    @given(damaged(seeds, JSON_TOKENS))
    def test(body: bytes) -> None:
        save(body)
        check(application, ("/v1/classify", body, {"Content-Type": "application/json"}))

    with Application() as application:
        yield test


def _forms() -> Iterator[bytes]:
    file = (
        b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
        + PHOTO
    )
    field = b'\r\n--XX\r\nContent-Disposition: form-data; name="sparsity"\r\n\r\n0.3'
    yield file + b"\r\n--XX--\r\n"
    yield file + field + b"\r\n" + file + b"\r\n--XX--"
    yield file.replace(b'; filename="a.png"', b"") + field + b"\r\n--XX--\r\n"


def _tensors() -> Iterator[tuple[bytes, bytes]]:
    """Requests, JSON and binary part of each."""
    pixels = np.arange(SIZE * SIZE * 3, dtype=np.uint8).reshape(1, SIZE, SIZE, 3)
    normalised = np.linspace(-2, 2, SIZE * SIZE * 3, dtype=np.float32).reshape(pixels.shape)
    for name, datatype, values in (
        ("pixels", "UINT8", pixels),
        ("normalised", "FP32", normalised),
        ("image", "BYTES", None),
    ):
        for binary in (True, False):
            content = values
            if content is None:
                content = np.array([PHOTO if binary else base64.b64encode(PHOTO)] * 2, dtype=np.object_)
            tensor = InferInput(name, list(content.shape), datatype).set_data_from_numpy(content, binary_data=binary)
            outputs = [InferRequestedOutput("index", binary_data=binary), InferRequestedOutput("logits", class_count=2)]
            body, size = InferenceServerClient.generate_request_body(
                [tensor], outputs=outputs, parameters={"sparsity": 0.3}, request_id="7"
            )
            yield body[:size], body[len(body) if size is None else size :]
    nested = {"name": "pixels", "datatype": "UINT8", "shape": pixels.shape, "data": pixels.tolist()}
    yield json.dumps({"inputs": [nested]}).encode(), b""
