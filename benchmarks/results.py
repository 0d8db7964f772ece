"""Result files: figures with the commit, machine and versions they were taken on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lccl.bench import provenance

FOLDER = Path(__file__).parent / "results"


def write(name: str, command: str, figures: dict[str, Any]) -> Path:
    """Write ``results/<name>.json`` and return its path."""
    return provenance.write(FOLDER / f"{name}.json", command, figures)
