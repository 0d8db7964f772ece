"""Requests as they are built and answers as they are read, without a network."""

from __future__ import annotations

import email.utils

import httpx
import pytest

import lccl_client
from lccl_client import wire
from lccl_client.answers import Answer, ModelMetadata

ANSWER = (
    b'{"model": "m", "version": "1", "request_id": "r", "a new field": 1, "operating_point": {"name": null, '
    b'"sparsity": 0.4, "norm_set": 0, "expected_accuracy": 0.8, "accuracy_interval": [0.7, 0.9], '
    b'"expected_accuracy_drop": 1.5, "downgraded": false, "new": {}}, "predictions": [{"classes": [{"label": "cat", '
    b'"index": 3, "probability": 0.9}], "skip_ratio": 0.41, "macs": {"dense": 9, "gated": 5, "executed": 6}}, '
    b'{"error": {"type": "about:blank", "title": "t", "status": 415, "code": "not_an_image", "detail": "no"}}], '
    b'"timing_ms": {"decode": 1, "queue": 2, "compute": 3, "total": 6, "encode": 7}}'
)


def test_an_answer_of_a_later_server_without_what_is_deprecated_is_read():
    assert wire.parse(Answer, ANSWER.replace(b'"norm_set": 0, ', b"")).operating_point == (
        wire.parse(Answer, ANSWER).operating_point
    )


def problem(status, content_type="application/problem+json", headers=None, **body):
    headers = {"Content-Type": content_type} | (headers or {})
    return httpx.Response(status, json=body, headers=headers)


def test_an_answer_is_read_and_unknown_fields_are_left_out():
    answer = wire.parse(Answer, ANSWER)
    assert answer.operating_point.accuracy_interval == (0.7, 0.9)
    assert answer.best.label == answer.predictions[0].classes[0].label == "cat"
    assert answer.predictions[0].macs.executed == 6
    assert answer.timing_ms.total == 6
    bad = answer.predictions[1]
    assert (bad.classes, bad.error.status, bad.error.code) == ((), 415, "not_an_image")
    with pytest.raises(lccl_client.ImageError, match="no"):
        _ = bad.best
    with pytest.raises(AttributeError):
        answer.model = "other"


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"{}", ANSWER.replace(b'"m"', b"null")])
def test_what_is_no_answer_is_told(content):
    with pytest.raises(lccl_client.UnreadableAnswerError, match="the answer is no Answer"):
        wire.parse(Answer, content)
    with pytest.raises(lccl_client.UnreadableAnswerError):
        wire.read(ModelMetadata, httpx.Response(200, content=content))


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "malformed", lccl_client.MalformedRequestError),
        (401, "unauthorised", lccl_client.UnauthorisedError),
        (403, "forbidden", lccl_client.ForbiddenError),
        (404, "unknown_model", lccl_client.NotFoundError),
        (413, "too_large", lccl_client.TooLargeError),
        (415, "not_an_image", lccl_client.NotAnImageError),
        (422, "bad_wish", lccl_client.QualityError),
        (429, "overloaded", lccl_client.OverloadedError),
        (429, "rate_limited", lccl_client.RateLimitedError),
        (500, "engine_failed", lccl_client.LcclServerError),
        (503, "unavailable", lccl_client.UnavailableError),
        (504, "timeout", lccl_client.OutOfTimeError),
        (504, "deadline", lccl_client.DeadlineError),
    ],
)
def test_each_problem_becomes_its_exception(status, code, kind):
    headers = {"Retry-After": "3"} if status == 429 else {}
    with pytest.raises(lccl_client.LcclServerError) as caught:
        wire.read(Answer, problem(status, headers=headers, code=code, detail="a sentence", request_id="r1"))
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.code, error.detail, error.request_id) == (status, code, "a sentence", "r1")
    assert error.retry_after_s == (3 if status == 429 else None)
    assert "a sentence" in str(error)


def test_an_error_of_something_before_the_server_is_told_too():
    for answer in (
        httpx.Response(503, text="upstream is down", headers={"X-Request-ID": "p1", "Retry-After": "soon"}),
        httpx.Response(503, content=b"{", headers={"Content-Type": "application/problem+json", "X-Request-ID": "p1"}),
    ):
        with pytest.raises(lccl_client.UnavailableError, match="Service Unavailable") as caught:
            wire.read(Answer, answer)
        assert (caught.value.code, caught.value.request_id, caught.value.retry_after_s) == ("", "p1", None)


def test_one_image_is_the_body_and_fields_left_open_are_not_sent():
    call = wire.classify([b"image"], sparsity=0.5, operating_point=None, top_k=3, request_id="r")
    assert (call.url, call.content, call.files) == ("/v1/classify", b"image", None)
    assert call.params == {"sparsity": "0.5", "top_k": "3"}
    assert call.headers["X-Request-ID"] == "r"


def test_models_and_versions_are_in_the_path():
    call = wire.classify([b"a", b"b"], model="a/b ü", version="1.0")
    assert call.url == "/v1/models/a%2Fb%20%C3%BC/versions/1.0/classify"
    assert [content for _, (_, content, _) in call.files] == [b"a", b"b"]
    with pytest.raises(ValueError, match="needs the name of its model"):
        wire.classify([b"a"], version="1")
    with pytest.raises(ValueError, match="no image"):
        wire.classify([])


def test_retry_after_is_seconds_or_a_date():
    now = 1_700_000_000.0
    assert wire.retry_after("7", now) == 7
    assert wire.retry_after(email.utils.formatdate(now + 90, usegmt=True), now) == 90
    assert wire.retry_after(email.utils.formatdate(now - 90, usegmt=True), now) == 0
    assert wire.retry_after("soon", now) is None
    assert wire.retry_after("", now) is None
