"""LCCL: residual networks that skip work, with the trade-off chosen per image.

The names below are imported on first use, so that light parts of the library load without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lccl.bundle import Bundle, load, save
    from lccl.compiler import compile
    from lccl.controls import Controls, Output
    from lccl.operating_points import OperatingPointTable, Wish
    from lccl.skip_map import SkipMap

__all__ = ["Bundle", "Controls", "OperatingPointTable", "Output", "SkipMap", "Wish", "compile", "load", "save"]

_HOMES = {
    "Bundle": "lccl.bundle",
    "Controls": "lccl.controls",
    "OperatingPointTable": "lccl.operating_points",
    "Output": "lccl.controls",
    "SkipMap": "lccl.skip_map",
    "Wish": "lccl.operating_points",
    "compile": "lccl.compiler",
    "load": "lccl.bundle",
    "save": "lccl.bundle",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lccl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
