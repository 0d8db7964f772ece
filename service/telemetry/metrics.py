"""Every metric's name, labels and buckets, on an injected registry."""

import platform
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, disable_created_metrics
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .histogram import BatchHistogram

NAMESPACE = "lccl"
UNKNOWN = "unknown"
INTERPOLATED = "interpolated"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
STAGE_SECONDS = (0.0001, 0.00025, 0.0005, *SECONDS)
RATIOS = tuple(round(0.05 * step, 2) for step in range(1, 20))
SHARES = (*RATIOS, 0.98, 0.99, 0.999)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
END = "end"  # where images that leave by no early exit are answered
OTHER = "other"
# What a gauge of the service is, given those of its processes; of those that are not named the sum.
OF_ALL: dict[str, Callable[[Iterable[float]], float]] = {
    "lccl_predicted_wait_seconds": max,
    "lccl_brownout_level": max,
    "lccl_model_info": max,
    "lccl_build_info": max,
    "lccl_source_up": min,
    "lccl_rate_limit_store_up": min,
    "process_start_time_seconds": min,
    "process_max_fds": min,
    "process_open_fds": max,  # the process that is nearest to its limit
}
MOST_CLASSES = 1000  # of a model that have a series of their own; what lies beyond is counted together as ``other``


class _Before(Collector):
    """Has no metrics: it lets those who count late do so before the others are read."""

    def __init__(self) -> None:
        self.functions: list[Callable[[], None]] = []

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        for function in self.functions:
            function()
        return ()


class Metrics:
    """The service's metrics; one attribute each, named like the metric without its prefix.

    Attributes:
        exits: of models with early exits alone; numbers from 0, or ``end``.
        gpu_memory: where a model runs on a GPU alone; its kinds are :data:`service.telemetry.gpu.KINDS`.
        point_skip_ratio: divided by the images of ``image_duration``, what a point reached and what calibration
            expected of it. The spread is the standard deviation between held-out images, or a little more: the
            layers' own ones added up.

    """

    def __init__(self, registry: CollectorRegistry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry
        self._before = _Before()
        registry.register(self._before)  # first, since a registry asks in turn
        ProcessCollector(registry=registry)
        self._of_images()
        self._of_requests()

    def before_read(self, settle: Callable[[], None]) -> None:
        """Call a function whenever the metrics are about to be read."""
        self._before.functions.append(settle)

    def _of_images(self) -> None:
        counter = partial(Counter, namespace=NAMESPACE, registry=self.registry)
        histogram = partial(BatchHistogram, namespace=NAMESPACE, registry=self.registry)
        model, point = ("model",), ("model", "operating_point")
        self.images = counter("images_total", "Images that ran, self-tests included.", point)
        self.image_duration = histogram(
            "image_duration_seconds", "Seconds of a client's image from entering the queue to the end of its batch.",
            point, buckets=SECONDS, former="picture_duration_seconds",
        )  # fmt: skip
        self.predictions = counter("predictions_total", "Clients' images by predicted class.", (*model, "class"))
        self.confidence = histogram(
            "confidence", "Probability of the likeliest class, per client's image.", model, buckets=SHARES
        )
        self.exits = counter(
            "exits_total", "Clients' images by the early exit that answered, or the network's end.", (*model, "exit")
        )
        self.skip_ratio = histogram("skip_ratio", "Skip ratio reached by each image.", model, buckets=RATIOS)
        self.requested_sparsity = histogram(
            "requested_sparsity",
            "Expected skip ratio of the setting that each image was run with.",
            model,
            buckets=RATIOS,
        )
        self.point_skip_ratio = counter(
            "point_skip_ratio_total", "Sum over clients' images of skip ratios: reached, expected, and their spread.",
            (*point, "kind"),
        )  # fmt: skip
        self.macs = counter(
            "macs_total",
            "Multiply-accumulates of the images that ran: dense, gated (theory), executed.",
            (*model, "kind"),
        )
        self.layer_cells = counter("layer_cells_total", "Output elements of a gated convolution.", (*model, "layer"))
        self.layer_cells_skipped = counter(
            "layer_cells_skipped_total", "Output elements of a gated convolution that were skipped.", (*model, "layer")
        )

    def _of_requests(self) -> None:
        counter = partial(Counter, namespace=NAMESPACE, registry=self.registry)
        gauge = partial(Gauge, namespace=NAMESPACE, registry=self.registry)
        histogram = partial(BatchHistogram, namespace=NAMESPACE, registry=self.registry)
        model = ("model",)
        self.request_duration = histogram(
            "request_duration_seconds", "Seconds from a request's head to its answer.",
            (*model, "route", "code"), buckets=SECONDS,
        )  # fmt: skip
        self.stage_duration = histogram(
            "stage_duration_seconds", "Seconds of an image in decode, queue and compute, and of an answer in encode.",
            (*model, "stage"), buckets=STAGE_SECONDS,
        )  # fmt: skip
        self.batch_size = histogram("batch_size", "Images in a batch.", model, buckets=SIZES)
        self.queue_depth = gauge("queue_depth", "Images waiting in the queue.", model)
        self.predicted_wait = gauge("predicted_wait_seconds", "Seconds that an image would wait if it arrived now.")
        self.brownout_level = gauge(
            "brownout_level", "How much sparser images that allow it are served: 0 not at all, 1 down to their floor."
        )
        self.inflight_requests = gauge("inflight_requests", "Requests in progress.")
        self.rejected = counter(
            "rejected_total", "Requests, and images of requests, that were answered with an error.", (*model, "reason")
        )
        self.downgraded = counter("downgraded_total", "Images served sparser than their request asked for.", model)
        self.model_info = gauge("model_info", "1 for each model.", (*model, "version", "engine", "precision", "digest"))
        self.source_up = gauge(
            "source_up", "1 while a remote source of models was in order when it was last fetched, else 0.", ("source",)
        )
        self.rate_limit_store_up = gauge(
            "rate_limit_store_up",
            "0 while the store of rates does not answer and each replica counts requests for itself, else 1.",
        )
        self.rate_limit_store_up.set(1)
        self.gpu_memory = gauge(
            "gpu_memory_bytes", "Bytes of a GPU that a model runs on: of torch's allocator, and of the whole device.",
            ("device", "kind"),
        )  # fmt: skip
        self.build_info = gauge("build_info", "1 for the running build.", ("version", "python", "torch"))
        self.build_info.labels(version("lccl"), platform.python_version(), version("torch")).set(1)


class SupervisorMetrics:
    """Those of the process that has others serve; one attribute each, as above."""

    def __init__(self, registry: CollectorRegistry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry
        ProcessCollector(registry=registry)
        self.processes = Gauge("processes", "Processes that answer.", namespace=NAMESPACE, registry=registry)
        self.processes_died = Counter(
            "processes_died_total", "Processes that ended unbidden.", namespace=NAMESPACE, registry=registry
        )
