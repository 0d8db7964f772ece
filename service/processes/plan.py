"""How many processes serve, and what each of them gets of the machine and of the limits."""

import json
import math
import os
import sys
from pathlib import Path

from lccl.engines.cpu.cores import control_groups, find_cores

from ..errors import StartError
from ..inference.folder import look
from ..settings import Settings
from ..sources.follow import ModelSources
from ..sources.location import parse_locations

MOST = 8  # by default: as many event loops answer some 20,000 requests a second
PROCESS_BYTES = 512 << 20  # that a process takes, at most some 440 MB with small models
MACS_PER_THREAD = 60_000_000  # of an image at exact: a millisecond of a core; with less a second thread gains nothing
DRIVER = Path("/dev/nvidiactl")  # of NVIDIA GPUs


def count_processes(settings: Settings) -> int:
    """As many as the settings say; by themselves as many as there are cores and memory for.

    A process has as many threads as an image of the largest model fills. A GPU has one process, and so have systems
    other than Linux. Remote sources are fetched, so that what they have is known.

    Raises:
        StartError: no source has a model, or neither the system nor a GPU can have several.

    """
    if (
        settings.processes > 1
        and sys.platform != "linux"
        and (sys.platform == "win32" or settings.grpc_port is not None)
    ):
        raise StartError("here several processes cannot serve, or not over gRPC: set processes to 1")
    if settings.processes > 1 and (settings.engine == "cuda" or settings.device.startswith("cuda")):
        raise StartError("a GPU is served by one process: set processes to 1")
    if settings.processes:
        return settings.processes
    on_cpu = settings.engine in {"cpu", "reference"} or settings.device == "cpu"
    cores = find_cores().count
    if sys.platform != "linux" or cores == 1 or not (on_cpu or not DRIVER.exists()):
        return 1
    largest = _largest(settings)
    if not math.isfinite(largest):
        return 1
    threads = max(settings.compute_threads, math.ceil(largest / MACS_PER_THREAD))
    return max(1, min(MOST, cores // threads, _memory_bytes() // PROCESS_BYTES))


def _memory_bytes() -> int:
    """What this machine has, or a container's limit leaves of it."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in control_groups():
        try:
            limits.append(int((group / "memory.max").read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(limits)


def _largest(settings: Settings) -> float:
    """Multiply-accumulates at exact of the largest model; infinite where they are not known."""
    sources = ModelSources(parse_locations(settings.models), settings.models_cache)
    sources.start()
    try:
        homes = look(*sources.folders).homes.values()
    except OSError:
        return math.inf
    return max(map(_exact_macs, homes), default=math.inf)


def _exact_macs(home: Path) -> float:
    """An image's multiply-accumulates at exact; infinite where a bundle does not say, of which its loading tells."""
    try:
        described = json.loads((home / "bundle.json").read_bytes())
        return float(described["operating_points"]["points"][0]["gated_macs"])
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return math.inf


def share(settings: Settings, processes: int) -> Settings:
    """What each of so many processes gets: its part of the cores, and of what all may hold at once."""
    threads = max(1, find_cores().count // processes)
    return settings.model_copy(
        update={
            "processes": processes,
            "compute_threads": settings.compute_threads or threads,
            "compute_streams": min(settings.compute_streams, settings.compute_threads or threads),
            "decode_threads": settings.decode_threads or threads + 1,
            "queue_limit": max(settings.max_images, math.ceil(settings.queue_limit / processes)),
            "max_inflight_bytes": max(settings.max_body_bytes, settings.max_inflight_bytes // processes),
            "max_decoding_pixels": max(1, settings.max_decoding_pixels // processes),
            "max_connections": math.ceil(settings.max_connections / processes),
        }
    )
