"""LCCL: residual networks that skip work, with the trade-off chosen per image.

The names below are imported on first use, so that light parts of the library load without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lccl.bundle.format import Bundle, load, save
    from lccl.compiler import compile_network as compile
    from lccl.operating_points import OperatingPointTable
    from lccl.plan.run import RunOptions, RunOutput, Setting
    from lccl.request import QualityRequest, resolve
    from lccl.skip_map import SkipMap

__all__ = [
    "Bundle", "OperatingPointTable", "QualityRequest", "RunOptions", "RunOutput", "Setting", "SkipMap",
    "compile", "load", "resolve", "save",
]  # fmt: skip

_HOMES = {
    "Bundle": "lccl.bundle.format",
    "OperatingPointTable": "lccl.operating_points",
    "QualityRequest": "lccl.request",
    "RunOptions": "lccl.plan.run",
    "RunOutput": "lccl.plan.run",
    "Setting": "lccl.plan.run",
    "SkipMap": "lccl.skip_map",
    "compile": "lccl.compiler",
    "load": "lccl.bundle.format",
    "resolve": "lccl.request",
    "save": "lccl.bundle.format",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lccl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), "compile_network" if name == "compile" else name)
