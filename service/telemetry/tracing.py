"""OpenTelemetry spans of a request, one for each of its stages. Off unless asked for; an extra brings the SDK.

The standard ``OTEL_…`` variables set the exporter, the names and the sampling. Attributes of requests have the names of
OpenTelemetry's semantic conventions for HTTP servers (opentelemetry.io/docs/specs/semconv/http/http-spans).
"""

import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from ..errors import StartError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

    from ..inference.pipeline import Classified


Attributes = Mapping[str, str | int | float | bool]
Stage = tuple[str, float, float, Attributes]  # name, and monotone seconds of start and end
METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))
OTHER_METHOD = "_OTHER"
PORTS = {"http": 80, "https": 443}


class Tracing:
    """Makes a request's span when it begins and its stages' spans once they are known."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider, self._tracer = provider, provider.get_tracer("lccl.service")
        self._epoch_ns = time.time_ns() - time.monotonic_ns()

    @classmethod
    def from_environment(cls) -> Self:
        """Export over OTLP and HTTP, in batches, as the ``OTEL_…`` variables say.

        Raises:
            StartError: the packages are not installed.

        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise StartError("tracing needs OpenTelemetry's packages: pip install 'lccl[tracing]'") from error
        own = {"service.name": "lccl", "service.version": version("lccl")}
        provider = TracerProvider(resource=Resource.create({**own, **OTELResourceDetector().detect().attributes}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    def begin(self, scope: Mapping[str, Any], started: float) -> "Span":
        """The span of a request, a child of the one that its ``traceparent`` names."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        headers = {str(name, "latin-1").lower(): str(value, "latin-1") for name, value in scope["headers"]}
        context = TraceContextTextMapPropagator().extract(headers)
        asked = _asked(scope, headers)
        return self._tracer.start_span(
            _method_in_name(scope["method"]), context, SpanKind.SERVER, asked, start_time=self._ns(started)
        )

    def end(
        self,
        span: "Span",
        method: str,
        route: str | None,
        status: int,
        classified: "Classified | None",
        started: float,
        ended: float,
    ) -> str:
        """Name the span, give it its stages, and send it off.

        Returns:
            The trace's id as in headers, logs and exemplars: 32 hexadecimal digits.

        """
        from opentelemetry.trace import StatusCode, set_span_in_context

        inside = set_span_in_context(span)
        for stage, start, end, attributes in _stages(classified, started, ended) if classified else ():
            child = self._tracer.start_span(stage, inside, start_time=self._ns(start))
            child.set_attributes(attributes)
            child.end(self._ns(end))
        if route is not None:
            span.update_name(f"{_method_in_name(method)} {route}")
            span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(StatusCode.ERROR)
        span.end(self._ns(ended))
        return f"{span.get_span_context().trace_id:032x}"

    def close(self) -> None:
        """Send what is still held back."""
        self._provider.shutdown()

    def _ns(self, monotone_s: float) -> int:
        return self._epoch_ns + int(monotone_s * 1e9)


def _method_in_name(method: str) -> str:
    return method if method in METHODS else "HTTP"


def _asked(scope: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, str | int]:
    """What is known of a request when it begins, under its standard names."""
    method, scheme = scope["method"], scope.get("scheme", "http")
    client, (host, port) = scope.get("client"), _server(scope, headers, scheme)
    known = {
        "http.request.method": method if method in METHODS else OTHER_METHOD,
        "http.request.method_original": None if method in METHODS else method,
        "url.scheme": scheme,
        "url.path": scope["path"],
        "url.query": str(scope.get("query_string", b""), "latin-1") or None,
        "server.address": host,
        "server.port": port,
        "client.address": client[0] if client else None,
        "network.protocol.version": scope.get("http_version"),
        "user_agent.original": headers.get("user-agent"),
    }
    return {name: value for name, value in known.items() if value is not None}


def _server(scope: Mapping[str, Any], headers: Mapping[str, str], scheme: str) -> tuple[str | None, int | None]:
    """Host and port that the client asked, or where it was answered if it did not say."""
    try:
        asked = urlsplit(f"//{headers.get('host', '')}")
        if asked.hostname:
            return asked.hostname, asked.port or PORTS.get(scheme)
    except ValueError:
        pass
    host, port = scope.get("server") or (None, None)
    return host, port


def _stages(classified: "Classified", started: float, ended: float) -> list[Stage]:
    """A request's time in stages that follow each other; of several images, from the first to the last."""
    results = classified.done
    queued = min(result.enqueued_at for result in results)
    began = max(result.started_at for result in results)
    finished = max(result.finished_at for result in results)
    point = results[0].point
    work: Attributes = {
        "lccl.images": len(results),
        "lccl.operating_point": point.name or "interpolated",
        "lccl.sparsity": point.skip_ratio,
        "lccl.downgraded": any(result.downgraded for result in results),
        "lccl.skip_ratio": sum(result.skip_ratio for result in results) / len(results),
        "lccl.macs.executed": sum(result.executed_macs for result in results),
    }
    return [
        ("read", started, queued - classified.decode_s, {}),
        ("decode", queued - classified.decode_s, queued, {}),
        ("queue", queued, began, {}),
        ("compute", began, finished, work),
        ("encode", finished, ended, {}),
    ]
