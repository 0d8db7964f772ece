"""The model behind every peer: decoding as this project does it, and the plain twin on the runtime that is wanted.

A peer is told what to do by the variable PEER, see :class:`Settings`.
"""

from __future__ import annotations

import json
import os
import site
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from lccl.preprocessing import Preprocessing

TOP = 5
MAX_PIXELS = 1 << 28
Pixels = NDArray[np.uint8]
Logits = NDArray[np.float32]
FILES = {("onnxruntime", "int8"): "twin-int8.onnx", ("openvino", "int8"): "twin-int8.xml"}


@dataclass(frozen=True, slots=True)
class Settings:
    """How a peer runs.

    Attributes:
        folder: of the plain twin: ``twin.onnx``, ``twin.safetensors`` and ``twin.json``, in int8 ``FILES``.
        ready: a folder; each worker puts a file into it when it has loaded its model.
        site: where this project's packages are installed, for the backend ``lccl``.
        backend: ``onnxruntime``, ``openvino`` or ``lccl``.
        precision: ``fp32``, or ``int8`` of one of the first two.
        workers: processes that each hold the model.
        threads: of the runtime, in each of them.
        batch: images in one call of the runtime at most.
        window_ms: how long a batch that is not full waits for more.
        decoders: threads that decode images in each worker; 0 decodes in the thread that runs the batch.
        front: what else the peer's documentation offers, by its name there.
        whole: whether JPEGs are decoded whole, as most people's are, and not reduced as this project's are.

    """

    folder: str
    ready: str
    site: str
    port: int
    backend: str
    precision: str = "fp32"
    workers: int = 1
    threads: int = 1
    batch: int = 32
    window_ms: float = 1.0
    decoders: int = 0
    front: str = ""
    whole: bool = False

    @property
    def file(self) -> str:
        """The twin for this runtime and precision."""
        return str(Path(self.folder) / FILES.get((self.backend, self.precision), "twin.onnx"))

    @classmethod
    def from_environment(cls) -> Settings:
        return cls(**json.loads(os.environ["PEER"]))


class Model:
    """The plain twin, made ready; one call at a time."""

    def __init__(self, settings: Settings) -> None:
        described = json.loads((Path(settings.folder) / "twin.json").read_text(encoding="utf-8"))
        given = Preprocessing.from_json(described["preprocessing"])
        self._preprocessing = replace(given, scaled=given.scaled and not settings.whole)
        self._labels: list[str] = described["labels"]
        self.predict = BACKENDS[settings.backend](settings, described)
        self._decode = ThreadPoolExecutor(settings.decoders).map if settings.decoders else map
        size = self._preprocessing.size
        self.classify([np.zeros((size, size, 3), np.uint8)])
        (Path(settings.ready) / str(os.getpid())).touch()

    def decode(self, contents: Iterable[bytes]) -> list[Pixels]:
        """JPEGs → each uint8 [size, size, 3], with the decoder that this project's service has."""
        return list(self._decode(self._decode_one, contents))

    def _decode_one(self, content: bytes) -> Pixels:
        return self._preprocessing.decode(content, MAX_PIXELS)

    def classify(self, pixels: Sequence[Pixels]) -> list[dict[str, Any]]:
        """The best classes of each image with their probabilities, and how long the runtime took for the batch."""
        started = time.perf_counter()
        logits = self.predict(np.stack(pixels))
        compute_ms = round(1000 * (time.perf_counter() - started), 3)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = weights / weights.sum(axis=1, keepdims=True)
        best = np.argsort(-probabilities, axis=1)[:, :TOP]
        return [
            {"classes": self._classes(row, indices), "compute_ms": compute_ms}
            for row, indices in zip(np.take_along_axis(probabilities, best, 1).tolist(), best.tolist(), strict=True)
        ]

    def answers(self, pixels: Sequence[Pixels]) -> list[bytes]:
        """As :meth:`classify`, each as JSON."""
        return [orjson.dumps(answer) for answer in self.classify(pixels)]

    def _classes(self, probabilities: list[float], indices: list[int]) -> list[dict[str, Any]]:
        return [
            {"label": self._labels[index], "index": index, "probability": round(probability, 6)}
            for index, probability in zip(indices, probabilities, strict=True)
        ]


def onnx_runtime(settings: Settings, _: dict[str, Any]) -> Callable[[Pixels], Logits]:
    """ONNX Runtime's CPU provider with all graph optimisations, which are its default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = settings.threads, 1
    session = onnxruntime.InferenceSession(settings.file, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def open_vino(settings: Settings, _: dict[str, Any]) -> Callable[[Pixels], Logits]:
    """OpenVINO's CPU plugin, one stream over all of the worker's threads, float32 where nothing is quantised."""
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": settings.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": settings.workers == 1,  # else all workers would be pinned to the first processor
    }
    request = openvino.Core().compile_model(settings.file, "CPU", options).create_infer_request()

    def run(images: Pixels) -> Logits:
        request.infer([images], share_inputs=True)
        return np.array(request.get_output_tensor(0).data)

    return run


def native(settings: Settings, described: dict[str, Any]) -> Callable[[Pixels], Logits]:
    """The project's own engine on the plain twin."""
    site.addsitedir(settings.site)
    from safetensors.torch import load_file

    import lccl
    from lccl.networks import Architecture, build
    from lccl.plan.run import RunOptions, Setting

    network = build(Architecture.from_json(described["architecture"]))
    network.load_state_dict(load_file(Path(settings.folder) / "twin.safetensors"))
    preprocessing = Preprocessing.from_json(described["preprocessing"])
    engine = lccl.compile(network.eval(), preprocessing=preprocessing, engine="cpu", threads=settings.threads)
    return lambda images: engine.run(images, RunOptions.of([Setting(())] * len(images))).logits


BACKENDS: dict[str, Callable[[Settings, dict[str, Any]], Callable[[Pixels], Logits]]] = {
    "onnxruntime": onnx_runtime,
    "openvino": open_vino,
    "lccl": native,
}
