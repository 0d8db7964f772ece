"""OpenTelemetry spans of a request, one for each of its stages. Off unless asked for; an extra brings the SDK.

The standard ``OTEL_…`` variables set the exporter, the names and the sampling.
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from ..errors import StartError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

    from ..inference.pipeline import Classified


Attributes = Mapping[str, str | int | float | bool]
Stage = tuple[str, float, float, Attributes]  # name, and monotone seconds of start and end


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
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise StartError("tracing needs OpenTelemetry's packages: pip install 'lccl[tracing]'") from error
        provider = TracerProvider(resource=Resource.create({"service.name": "lccl-serve"}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    def begin(self, headers: Mapping[str, str], started: float) -> "Span":
        """The span of a request, a child of the one that its ``traceparent`` names."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract(headers)
        return self._tracer.start_span("request", context, SpanKind.SERVER, start_time=self._ns(started))

    def end(
        self, span: "Span", name: str, status: int, classified: "Classified | None", started: float, ended: float
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
        span.update_name(name)
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end(self._ns(ended))
        return f"{span.get_span_context().trace_id:032x}"

    def close(self) -> None:
        """Send what is still held back."""
        self._provider.shutdown()

    def _ns(self, monotone_s: float) -> int:
        return self._epoch_ns + int(monotone_s * 1e9)


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
