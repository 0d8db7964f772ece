"""Both clients against the real service, and against servers that fail in ways it does not on demand."""

from __future__ import annotations

import io
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

import lccl_client


def overloaded(handler, retry_after="1"):
    content = b'{"code": "overloaded", "detail": "full", "status": 429}'
    handler.reply(429, content, Content_Type="application/problem+json", Retry_After=retry_after)


def test_an_answer_is_the_servers(ask, address, draw_image):
    answer = ask(address, "classify", draw_image(), sparsity=0.3, top_k=3, request_id="find-me")
    body = httpx.post(f"{address}/v1/classify", content=draw_image(), params={"sparsity": 0.3, "top_k": 3}).json()
    assert answer.request_id == "find-me"
    assert (answer.model, answer.version) == ("small", body["version"])
    assert answer.operating_point.sparsity == 0.3
    (prediction,) = answer.predictions
    assert len(prediction.classes) == 3
    assert prediction.best.label == body["predictions"][0]["classes"][0]["label"]
    assert prediction.best.probability == pytest.approx(body["predictions"][0]["classes"][0]["probability"], rel=1e-4)
    assert prediction.macs.gated == body["predictions"][0]["macs"]["gated"]
    assert answer.timing_ms.total > 0


def test_images_come_in_many_forms(ask, address, draw_image, tmp_path):
    content = draw_image(seed=4)
    (tmp_path / "a.png").write_bytes(content)
    forms = [
        content, bytearray(content), memoryview(content), tmp_path / "a.png", str(tmp_path / "a.png"),
        io.BytesIO(content), Image.open(io.BytesIO(content)),
    ]  # fmt: skip
    predictions = ask(address, "classify_many", forms).predictions
    assert len({prediction.best for prediction in predictions}) == 1
    with pytest.raises(TypeError, match="not int"):
        ask(address, "classify", 3)
    with pytest.raises(FileNotFoundError):
        ask(address, "classify", Path("nowhere.png"))


def test_a_bad_image_among_good_ones_has_its_error(ask, address, draw_image):
    first, bad, last = ask(address, "classify_many", [draw_image(seed=1), b"no image", draw_image(seed=2)]).predictions
    assert first.best
    assert last.best
    assert (bad.error.status, bad.error.code) == (415, "not_an_image")
    with pytest.raises(lccl_client.ImageError):
        _ = bad.best


def test_quality_requests_arrive(ask, address, draw_image):
    assert ask(address, "classify", draw_image()).operating_point.name == "exact"
    assert ask(address, "classify", draw_image(), operating_point="p40").operating_point.name == "p40"
    assert ask(address, "classify", draw_image(), max_accuracy_drop=3).operating_point.name == "p25"
    assert ask(address, "classify", draw_image(), model="twin").model == "twin"
    given = ask(address, "classify", draw_image(), operating_point="exact", max_accuracy_drop=3, sparsity=None)
    assert given.operating_point.name == "exact"


def test_early_exits_are_asked_for_and_told(ask, address, smooth_images):
    model = ask(address, "model", "early")
    assert [one.after_block for one in model.exits] == [2, 5]
    assert model.exits[0].images["p25"] == pytest.approx(0.1)
    assert model.exit_confidence_range == (0.5, 1.0)
    assert [point.exit_confidence for point in model.exit_points] == [0.9, 0.7, 0.5]
    assert model.operating_points[1].exit_confidence == (0.9, 0.9)
    answer = ask(address, "classify", smooth_images[0], model="early", exit_confidence=0.5)
    assert answer.operating_point.exit_confidence == (0.5, 0.5)
    assert answer.predictions[0].exit == 0
    assert answer.predictions[0].confidence == answer.best.probability
    assert ask(address, "classify", smooth_images[0], model="early", exit_confidence=1).predictions[0].exit is None
    with pytest.raises(lccl_client.QualityError, match="exit_confidence must be a number"):
        ask(address, "classify", smooth_images[0], model="early", exit_confidence=0.3)


def test_models_without_early_exits_say_so(ask, address, draw_image):
    model = ask(address, "model", "small")
    assert (model.exits, model.exit_points, model.exit_confidence_range) == ((), (), None)
    assert ask(address, "classify", draw_image()).predictions[0].exit is None


def test_a_deadline_is_met_or_told(ask, address, draw_image):
    assert ask(address, "classify", draw_image(), deadline_ms=5000).operating_point.name == "exact"
    with pytest.raises(lccl_client.DeadlineError) as caught:
        ask(address, "classify", draw_image(), deadline_ms=0.001)
    assert caught.value.code == "deadline"


def test_a_version_can_be_named(ask, address, draw_image):
    version = ask(address, "model", "small").version
    assert ask(address, "classify", draw_image(), model="small", version=version).version == version
    with pytest.raises(lccl_client.NotFoundError):
        ask(address, "classify", draw_image(), model="small", version="none")


def test_models_tell_what_they_offer(ask, address):
    models = ask(address, "models")
    assert models.default == "small"
    assert [model.name for model in models.models] == ["early", "small", "twin"]
    small = ask(address, "model", "small")
    assert small == models.models[1]
    assert small.labels[0] == "class0"
    assert small.input.max_images == 8
    assert [point.name for point in small.operating_points] == ["exact", "p25", "p40", "p60"]


@pytest.mark.parametrize(
    ("content", "options", "kind"),
    [
        (b"", {}, lccl_client.MalformedRequestError),
        (b"\0" * 1_000_001, {}, lccl_client.TooLargeError),
        (b"no image", {}, lccl_client.NotAnImageError),
        (None, {"model": "nobody"}, lccl_client.NotFoundError),
        (None, {"sparsity": 0.99}, lccl_client.QualityError),
        (None, {"sparsity": 0.3, "operating_point": "p25"}, lccl_client.QualityError),
        (None, {"sparsty": 0.3}, lccl_client.QualityError),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_errors_are_told_by_their_kind(ask, address, draw_image, content, options, kind):
    with pytest.raises(kind) as caught:
        ask(address, "classify", draw_image() if content is None else content, request_id="mine", **options)
    assert type(caught.value) is kind
    assert caught.value.detail
    assert caught.value.request_id == "mine"


def test_the_api_key_is_sent(ask, guarded, draw_image):
    small = draw_image(size=(8, 8))
    assert ask(guarded, "classify", small, settings={"api_key": "s3cret"}).best
    for key in (None, "wrong"):
        with pytest.raises(lccl_client.UnauthorisedError):
            ask(guarded, "classify", small, settings={"api_key": key})
    assert ask(guarded, "ready")


def test_an_overloaded_server_is_asked_again_when_it_says_so(ask, guarded, draw_image):
    """The server has room for one upload, and another client is slow with its own."""
    small, key = draw_image(size=(8, 8)), {"api_key": "s3cret"}
    with slow_upload(guarded):
        error = first_refusal(lambda: ask(guarded, "classify", small, settings=key))
        assert error.retry_after_s >= 1
    assert ask(guarded, "classify", small, settings=key | {"retries": 5}).best


def first_refusal(ask_once):
    """Ask until the server has read the slow upload and refuses."""
    for _ in range(500):
        try:
            ask_once()
        except lccl_client.OverloadedError as error:
            return error
    raise AssertionError("the server never refused")


class slow_upload:  # noqa: N801 - used as a context manager
    """Sends most of a body and then nothing more."""

    def __init__(self, base_url):
        parts = urlsplit(base_url)
        self._connection = socket.create_connection((parts.hostname, parts.port))

    def __enter__(self):
        head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer s3cret\r\n"
        self._connection.sendall(head + b"Content-Length: 8192\r\n\r\n" + bytes(8100))

    def __exit__(self, *_):
        self._connection.close()


def test_refused_requests_wait_and_are_sent_again(ask, answering, draw_image, address):
    good = httpx.post(f"{address}/v1/classify", content=draw_image()).content
    times = []

    def answer(handler):
        times.append(time.monotonic())
        overloaded(handler) if len(times) < 2 else handler.reply(200, good)

    with answering(answer) as base:
        assert ask(base, "classify", draw_image(), settings={"retries": 2}).best
    first, second = times
    assert 1 <= second - first < 5


@pytest.mark.parametrize(
    ("settings", "retry_after", "asked"),
    [({}, "0", 1), ({"retries": 2}, "0", 3), ({"retries": 2, "max_retry_wait_s": 5}, "6", 1)],
)
def test_retries_are_bounded(ask, answering, draw_image, settings, retry_after, asked):
    seen = []

    def answer(handler):
        seen.append(handler.path)
        overloaded(handler, retry_after)

    with answering(answer) as base:
        with pytest.raises(lccl_client.OverloadedError) as caught:
            ask(base, "classify", draw_image(), settings=settings)
        assert caught.value.retry_after_s == float(retry_after)
    assert len(seen) == asked


def test_a_client_error_is_not_sent_again(ask, answering, draw_image):
    seen = []

    def answer(handler):
        seen.append(handler.path)
        handler.reply(422, b'{"code": "bad_wish", "detail": "no"}', Content_Type="application/problem+json")

    with answering(answer) as base, pytest.raises(lccl_client.QualityError):
        ask(base, "classify", draw_image(), settings={"retries": 3})
    assert len(seen) == 1


def test_no_answer_is_its_own_error(ask, answering, draw_image):
    over = threading.Event()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(lccl_client.ConnectionFailedError, match="/v1/classify"):
        ask(nowhere, "classify", draw_image())
    assert not ask(nowhere, "ready")
    with answering(lambda _: over.wait(5)) as base:
        with pytest.raises(lccl_client.ConnectionFailedError, match="/v1/models"):
            ask(base, "models", settings={"timeout": 0.2})
        over.set()


def test_readiness_is_the_servers(ask, answering, address):
    assert ask(address, "ready")
    with answering(lambda handler: handler.reply(503)) as base:
        assert not ask(base, "ready")


def test_a_negative_number_of_retries_is_refused():
    with pytest.raises(ValueError, match="negative"):
        lccl_client.Client("http://127.0.0.1", retries=-1)
