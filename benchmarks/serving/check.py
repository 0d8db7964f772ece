"""Whether a peer answers as the plain twin does in PyTorch, before anything is timed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.servers import Ask, Server
from benchmarks.serving.workload import Served

IMAGES = 4
WITHIN = 0.002  # of the highest probability


def check_peer(server: Server, ask: Ask, served: Served) -> None:
    """Hold a peer's classes and probabilities against the expected ones.

    Raises:
        RuntimeError: they differ.

    """
    for index in range(IMAGES):
        answer = server.post(ask, index).json()
        found = (answer[0] if isinstance(answer, list) else answer)["classes"]
        complaint = differs(found, served.expected[index])
        if complaint:
            raise RuntimeError(f"{server.name}, image {index}: {complaint}")


def differs(found: list[dict[str, Any]], expected: NDArray[np.floating]) -> str:
    """In words where the classes found differ from the expected probabilities [classes]; empty if they do not."""
    tolerance = WITHIN * float(expected.max())
    for entry in found:
        if abs(entry["probability"] - expected[entry["index"]]) > tolerance:
            return f"{entry['label']} has {entry['probability']} where {expected[entry['index']]:.6f} is right"
    least, shown = np.sort(expected)[-len(found)], [entry["index"] for entry in found]
    if len(set(shown)) != len(found) or (expected[shown] < least - tolerance).any():
        return f"classes {shown} are not the best"
    return ""
