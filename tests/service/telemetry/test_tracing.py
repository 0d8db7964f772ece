"""Tracing: spans of a request over a real exporter, their parents, ids in logs and exemplars; nothing when off."""

from __future__ import annotations

import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.service.engines import Gated

PNG = {"Content-Type": "image/png"}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Spans(list):
    """What a collector was sent: spans, and what each batch says of where they come from."""

    def __init__(self):
        super().__init__()
        self.resources = []


@pytest.fixture
def collector(monkeypatch):
    """A collector on a socket; gives the spans it was sent."""
    spans = Spans()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            spans.resources.extend(attributes(resource.resource) for resource in sent.resource_spans)
            spans.extend(
                span for resource in sent.resource_spans for scope in resource.scope_spans for span in scope.spans
            )
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield spans
    server.shutdown()
    thread.join()
    server.server_close()


def attributes(span):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_a_request_is_a_span_with_its_stages(serve, collector, draw_image, caplog):
    caplog.set_level(logging.INFO, "service.access")
    with serve(tracing=True) as client:
        headers = PNG | {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        answer = client.post("/v1/classify?sparsity=0.3", content=draw_image(), headers=headers).json()
        assert client.post("/v1/classify", content=b"no image", headers=PNG).status_code == 415
        exemplars = client.get("/metrics", headers={"Accept": "application/openmetrics-text"}).text
    served = [span for span in collector if span.trace_id.hex() == TRACE]
    assert [span.name for span in served] == ["read", "decode", "queue", "compute", "encode", "POST /v1/classify"]
    *stages, whole = served
    assert whole.parent_span_id.hex() == PARENT
    assert all(stage.parent_span_id == whole.span_id for stage in stages)
    ends = [stages[0].start_time_unix_nano, *(stage.end_time_unix_nano for stage in stages)]
    assert ends == sorted(ends)
    assert whole.start_time_unix_nano == stages[0].start_time_unix_nano
    work = attributes(stages[3])
    assert work["lccl.skip_ratio"] == pytest.approx(answer["predictions"][0]["skip_ratio"])
    assert work["lccl.operating_point"] == "interpolated"
    assert work["lccl.images"] == 1
    refused = next(span for span in collector if attributes(span).get("http.response.status_code") == 415)
    assert refused.name == "POST /v1/classify"
    logged = next(one for one in caplog.records if one.name == "service.access" and one.status == 200)
    assert logged.trace_id == TRACE
    assert f'trace_id="{TRACE}"' in exemplars


def test_off_there_are_no_spans_ids_or_exemplars(serve, collector, draw_image, caplog):
    caplog.set_level(logging.INFO, "service.access")
    with serve() as client:
        client.post("/v1/classify", content=draw_image(), headers=PNG | {"traceparent": f"00-{TRACE}-{PARENT}-01"})
        assert "trace_id" not in client.get("/metrics", headers={"Accept": "application/openmetrics-text"}).text
    assert not collector
    assert not hasattr(caplog.records[-1], "trace_id")


def test_a_collector_that_is_not_there_harms_nobody(serve, monkeypatch, draw_image):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with serve(tracing=True) as client:
        assert client.post("/v1/classify", content=draw_image(), headers=PNG).status_code == 200


def test_requests_are_described_by_the_standard_names(serve, collector, draw_image):
    with serve(tracing=True) as client:
        headers = PNG | {"Host": "localhost:81", "User-Agent": "tests/1"}
        client.post("/v1/classify?sparsity=0.3", content=draw_image(), headers=headers)
        client.get("/nothing/here", headers={"Host": "[::1]"})
        client.request("PROPFIND", "/v1/classify", headers={"Host": "a b:x"})
        port = client.base_url.port
    good, strange, found = sorted(
        (one for one in collector if not one.parent_span_id), key=lambda span: span.start_time_unix_nano
    )
    assert good.name == "POST /v1/classify"
    assert attributes(good) == {
        "http.request.method": "POST", "url.scheme": "http", "url.path": "/v1/classify", "url.query": "sparsity=0.3",
        "http.route": "/v1/classify", "http.response.status_code": 200, "server.address": "localhost",
        "server.port": 81, "client.address": "127.0.0.1", "network.protocol.version": "1.1",
        "user_agent.original": "tests/1",
    }  # fmt: skip
    assert strange.name == "GET"
    told = attributes(strange)
    assert "http.route" not in told
    assert (told["server.address"], told["server.port"], told["url.path"]) == ("::1", 80, "/nothing/here")
    told = attributes(found)
    assert found.name.startswith("HTTP")
    assert (told["http.request.method"], told["http.request.method_original"]) == ("_OTHER", "PROPFIND")
    assert (told["server.address"], told["server.port"]) == ("127.0.0.1", port)
    assert "error.type" not in told


def test_an_error_of_the_server_has_its_type(serve, collector, draw_image):
    with serve(tracing=True, self_test_interval_s=600) as client:
        model = client.app.state.registry.find("small")
        model.engine = Gated(model.engine)
        model.engine.fail = True
        model.engine.go.set()
        assert client.post("/v1/classify", content=draw_image(), headers=PNG).status_code == 500
    (failed,) = (one for one in collector if not one.parent_span_id)
    assert attributes(failed)["error.type"] == "500"
    assert failed.status.code == failed.status.STATUS_CODE_ERROR


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "lccl"),
        ({"OTEL_SERVICE_NAME": "shop"}, "shop"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=stall,deployment.environment.name=test"}, "stall"),
    ],
)
def test_where_spans_come_from_is_named_by_the_environment(serve, collector, monkeypatch, variables, name):
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with serve(tracing=True) as client:
        client.get("/health/live")
    told = collector.resources[0]
    assert told["service.name"] == name
    assert told["service.version"] == version("lccl")
    assert told.get("deployment.environment.name") == ("test" if name == "stall" else None)
