"""Every row of the error table, met by a request where one can cause it, and good requests served afterwards."""

from __future__ import annotations

import base64
import io
import socket
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from service import errors
from tests.service.engines import Gated, wait_for

PNG = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}


def png_header(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def text_bomb():
    info = PngImagePlugin.PngInfo()
    for number in range(4):
        info.add_text(f"bomb{number}", "A" * 5_000_000, zip=True)
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def still_serves(client, image):
    answer = client.post("/v1/classify", content=image(), headers=PNG, params={"sparsity": 0.3})
    assert answer.status_code == 200


def refused(answer, status, code):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["detail"]
    assert body["request_id"] == answer.headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("sparsity=nan", "invalid_field"),
        ("sparsity=inf", "invalid_field"),
        ("sparsity=-0.1", "bad_wish"),
        ("sparsity=1.5", "bad_wish"),
        ("sparsity=0.99", "bad_wish"),
        ("sparsity=much", "invalid_field"),
        ("sparsity=", "invalid_field"),
        ("sparsity=0.2&sparsity=0.3", "invalid_field"),
        ("sparsity=0.3&operating_point=p25", "bad_wish"),
        ("operating_point=p99", "bad_wish"),
        ("operating_point=" + "x" * 100, "invalid_field"),
        ("max_accuracy_drop=nan", "invalid_field"),
        ("max_accuracy_drop=-1", "bad_wish"),
        ("max_accuracy_drop=101", "bad_wish"),
        ("sparsity=0.6&max_accuracy_drop=1", "bad_wish"),
        ("top_k=0", "invalid_field"),
        ("top_k=2.5", "invalid_field"),
        ("sparsty=0.3", "invalid_field"),
    ],
)
def test_bad_wishes_are_422(client, draw_image, query, code):
    refused(client.post(f"/v1/classify?{query}", content=draw_image(), headers=PNG), 422, code)
    still_serves(client, draw_image)


def test_a_target_out_of_reach_is_told_the_range(client, draw_image):
    answer = client.post("/v1/classify?sparsity=0.9", content=draw_image(), headers=PNG)
    assert "0.100 to 0.600" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"", PNG, 400, "malformed"),
        (b"\x00" * (50 << 20), PNG, 413, "too_large"),
        (png_header(60_000, 60_000), PNG, 413, "too_large"),
        (png_header(1001, 1000), PNG, 413, "too_large"),
        (png_header(100, 100), PNG, 400, "damaged_image"),
        (b"GIF89a", PNG, 415, "not_an_image"),
        (b"%PDF-1.7 no image", PNG, 415, "not_an_image"),
        (b"hello", {"Content-Type": "text/plain"}, 415, "not_an_image"),
        (b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "not_an_image"),
        (b"{", JSON, 400, "malformed"),
        (b"[" * 100_000 + b"]" * 100_000, JSON, 400, "malformed"),
        (b'{"image":' + b"[" * 50_000, JSON, 400, "malformed"),
        (b'{"image": "%%%"}', JSON, 400, "malformed"),
        (b'{"image": "YQ==", "images": ["YQ=="]}', JSON, 400, "malformed"),
        (b'{"images": []}', JSON, 400, "malformed"),
        (b'{"image": "YQ=="}', JSON, 415, "not_an_image"),
        (b"x", {"Content-Type": "multipart/form-data"}, 400, "malformed"),
        (b"x", {"Content-Type": "multipart/form-data; boundary=b"}, 400, "malformed"),
        (b"--b\r\nno header\r\n", {"Content-Type": "multipart/form-data; boundary=b"}, 400, "malformed"),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_bad_bodies_are_refused(client, draw_image, body, headers, status, code):
    refused(client.post("/v1/classify", content=body, headers=headers), status, code)
    still_serves(client, draw_image)


def test_a_body_without_a_declared_length_is_cut_off_at_the_limit(client, draw_image):
    refused(client.post("/v1/classify", content=(b"\0" * 65536 for _ in range(64)), headers=PNG), 413, "too_large")
    still_serves(client, draw_image)


def test_a_truncated_jpeg_is_refused(client, draw_image):
    content = draw_image("JPEG", size=(200, 200))
    for length in (len(content) // 4, len(content) // 2, len(content) - 100):
        refused(client.post("/v1/classify", content=content[:length]), 400, "damaged_image")
    still_serves(client, draw_image)


def test_a_text_chunk_bomb_is_not_inflated(serve, draw_image):
    bomb = text_bomb()
    with serve() as client:
        assert client.post("/v1/classify", content=bomb, headers=PNG).status_code == 200
        still_serves(client, draw_image)


def test_compressed_bodies_are_refused(client, draw_image):
    headers = PNG | {"Content-Encoding": "gzip"}
    refused(client.post("/v1/classify", content=zlib.compress(draw_image()), headers=headers), 415, "not_an_image")


def test_too_many_files_are_refused(client, draw_image):
    files = [("file", b"x")] * 10_000
    refused(client.post("/v1/classify", files=files), 413, "too_large")
    refused(client.post("/v1/classify", files=[("file", draw_image())] * 9), 413, "too_large")
    text = base64.b64encode(b"x").decode()
    refused(client.post("/v1/classify", json={"images": [text] * 9}), 413, "too_large")
    still_serves(client, draw_image)


def test_fields_of_the_body_are_checked_like_the_querys(client, draw_image):
    files = {"file": draw_image()}
    refused(client.post("/v1/classify", files=files, data={"sparsty": "0.3"}), 422, "invalid_field")
    refused(client.post("/v1/classify?sparsity=0.3", files=files, data={"sparsity": "0.3"}), 422, "invalid_field")
    refused(client.post("/v1/classify", files={"image": draw_image()}), 422, "invalid_field")
    text = base64.b64encode(draw_image()).decode()
    refused(client.post("/v1/classify", json={"image": text, "sparsity": True}), 422, "invalid_field")
    refused(client.post("/v1/classify", json={"image": text, "colour": 1}), 422, "invalid_field")
    refused(
        client.post("/v1/classify", content=b'{"image": "YQ==", "sparsity": NaN}', headers=JSON), 422, "invalid_field"
    )


@pytest.mark.parametrize("name", ["nobody", "%2e%2e%2fsmall", "x" * 3000, "ünknown"])
def test_unknown_models_are_404(client, draw_image, name):
    answer = client.post(f"/v1/models/{name}/classify", content=draw_image(), headers=PNG)
    assert answer.status_code == 404
    assert client.get("/v1/models/nobody").json()["code"] == "unknown_model"
    still_serves(client, draw_image)


def test_other_paths_and_methods_are_problems_too(client):
    refused(client.get("/nothing"), 404, "not_found")
    refused(client.get("/v1/classify"), 405, "method_not_allowed")


def test_the_api_key_is_asked_for_when_set(serve, draw_image):
    with serve(api_key="s3cret") as client:
        send = {"content": draw_image(), "headers": PNG}
        refused(client.post("/v1/classify", **send), 401, "unauthorised")
        for wrong in ({"X-API-Key": "s3cre"}, {"Authorization": "Bearer no"}, {"Authorization": "Basic s3cret"}):
            refused(client.post("/v1/classify", content=draw_image(), headers=PNG | wrong), 401, "unauthorised")
        refused(client.get("/v1/models"), 401, "unauthorised")
        for right in ({"X-API-Key": "s3cret"}, {"Authorization": "Bearer s3cret"}):
            assert client.post("/v1/classify", content=draw_image(), headers=PNG | right).status_code == 200
        assert client.get("/health/ready").status_code == 200
        assert client.get("/metrics").status_code == 200


@pytest.fixture
def gated(serve):
    """A server whose engine stands still, with room for four waiting images."""
    with serve(queue_limit=4, max_images=4, request_timeout_s=2.5, compute_streams=1) as client:
        registry = client.app.state.registry
        model = registry.find("small")
        engine = Gated(model.engine)
        model.engine = engine
        yield client, engine
        engine.go.set()


def test_a_full_queue_is_429_with_advice(gated, draw_image):
    client, engine = gated
    state = client.app.state
    model = state.registry.find("small")

    def send(count):
        return client.post("/v1/classify", files=[("file", draw_image())] * count)

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(send, 1)
        wait_for(lambda: engine.entered)
        second = pool.submit(send, 3)
        wait_for(lambda: state.batcher.depth(model.key) == 3)
        full = send(2)
        refused(full, 429, "overloaded")
        assert int(full.headers["Retry-After"]) >= 1
        engine.go.set()
        assert first.result().status_code == second.result().status_code == 200
    assert engine.ran == [1, 3]
    still_serves(client, draw_image)


def test_a_late_answer_is_504_and_its_images_are_not_run(gated, draw_image):
    client, engine = gated

    def send():
        return client.post("/v1/classify", content=draw_image(), headers=PNG)

    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(send)]
        wait_for(lambda: engine.entered)
        answers.append(pool.submit(send))
        for answer in answers:
            refused(answer.result(), 504, "timeout")
    engine.go.set()
    still_serves(client, draw_image)
    assert engine.ran == [1, 1]  # the batch that was under way, and the last request


def test_a_client_that_leaves_takes_its_images_along(gated, draw_image, caplog):
    caplog.set_level("INFO")
    client, engine = gated
    state = client.app.state
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(client.post, "/v1/classify", content=draw_image(), headers=PNG)
        wait_for(lambda: engine.entered)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{client.base_url}/v1/classify", content=draw_image(), headers=PNG, timeout=0.3)
        wait_for(lambda: state.metrics.registry.get_sample_value("lccl_inflight_requests") == 1)
        wait_for(lambda: "POST /v1/classify 499" in caplog.messages)
        left = {"model": "small", "route": "/v1/classify", "code": "499"}
        assert state.metrics.registry.get_sample_value("lccl_request_duration_seconds_count", left) == 1
        engine.go.set()
        assert under_way.result().status_code == 200
    still_serves(client, draw_image)
    assert engine.ran == [1, 1]
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_client_that_leaves_during_its_upload_is_no_failure(client, draw_image):
    host, port = client.base_url.host, client.base_url.port
    metrics = client.app.state.metrics.rejected
    before = metrics.labels("small", "client_gone")._value.get()
    with socket.create_connection((host, port)) as connection:
        connection.sendall(
            b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9999\r\n\r\nabc"
        )
    wait_for(lambda: metrics.labels("small", "client_gone")._value.get() == before + 1)
    still_serves(client, draw_image)


def test_a_image_without_a_finite_answer_gets_its_own_error(gated, draw_image):
    client, engine = gated
    engine.go.set()
    run = engine.run

    def overflow(images, options, **how):
        output = run(images, options, **how)
        output.logits[0] = np.inf
        return output

    engine.run = overflow
    answer = client.post("/v1/classify", files=[("file", draw_image(seed=seed)) for seed in range(2)])
    assert answer.status_code == 200
    bad, good = answer.json()["predictions"]
    assert bad["error"]["code"] == "engine_failed"
    assert good["classes"]
    refused(client.post("/v1/classify", content=draw_image(), headers=PNG), 500, "engine_failed")


def test_a_failed_batch_fails_its_requests_and_the_next_is_served(gated, draw_image):
    client, engine = gated
    engine.fail = True
    engine.go.set()
    refused(client.post("/v1/classify", content=draw_image(), headers=PNG), 500, "engine_failed")
    engine.fail = False
    still_serves(client, draw_image)


def test_a_closed_queue_is_503(serve, draw_image):
    with serve() as client:
        client.app.state.batcher.close()
        refused(client.post("/v1/classify", content=draw_image(), headers=PNG), 503, "unavailable")
        refused(client.get("/health/ready"), 503, "unavailable")


def test_uploads_together_stay_under_their_limit(serve, draw_image):
    with serve(max_body_bytes=4096, max_inflight_bytes=4096) as client:
        bodies = client.app.state.bodies
        bodies._held += 4000
        refused(client.post("/v1/classify", content=draw_image(size=(8, 8)), headers=PNG), 429, "overloaded")
        bodies._held -= 4000
        still_serves(client, lambda: draw_image(size=(8, 8)))


def test_each_row_of_the_table_has_its_status():
    expected = {
        400: {"malformed", "damaged_image"},
        401: {"unauthorised"},
        403: {"forbidden"},
        404: {"unknown_model"},
        408: {"too_slow"},
        413: {"too_large"},
        415: {"not_an_image"},
        421: {"wrong_host"},
        422: {"invalid_field", "bad_wish", "bad_input", "bad_bundle"},
        429: {"overloaded", "rate_limited"},
        431: {"head_too_large"},
        499: {"client_gone"},
        500: {"engine_failed"},
        503: {"unavailable", "too_many_connections"},
        504: {"timeout", "deadline"},
    }
    found: dict[int, set[str]] = {}
    for code in errors.STATUS:
        if code not in {*errors.LIBRARY.values(), "internal"}:
            body, headers = errors.problem(errors.ServiceError(code, "text"))
            found.setdefault(body["status"], set()).add(body["code"])
            assert (body["code"], body["detail"]) == (code, "text")
            assert headers == ({"WWW-Authenticate": "Bearer"} if code == "unauthorised" else {})
    for error in (kind("text") for kind in errors.LIBRARY):
        body, _ = errors.problem(error)
        found.setdefault(body["status"], set()).add(body["code"])
        assert body["detail"] == str(error)
    assert found == expected
    for code, after_s in (("overloaded", 2.6), ("rate_limited", 2.1)):  # never too early
        assert errors.problem(errors.ServiceError(code, "full", after_s))[1] == {"Retry-After": "3"}


def test_an_unforeseen_error_tells_nothing():
    body, _ = errors.problem(RuntimeError("secret path"))
    assert body["status"] == 500
    assert "secret" not in body["detail"]
