"""A pytest plugin: a build of the native engine other than the installed one.

``LCCL_NATIVE`` names the folder that it was installed into; each of several processes loads it.
"""

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

PACKAGE = "lccl.engines.cpu"


def module_of(folder):
    """The native module below a folder of packages; beside the installed one, which the engine still uses."""
    (file,) = Path(folder).resolve().joinpath(*PACKAGE.split(".")).glob("_native.*.so")
    spec = spec_from_file_location(f"{PACKAGE}._native", file)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(folder):
    """Have the engine use it, and return its file."""
    module = sys.modules[f"{PACKAGE}._native"] = module_of(folder)

    from lccl.engines.cpu import engine

    if engine._native.__file__ != module.__file__:
        raise SystemExit(f"the engine uses {engine._native.__file__}")
    return Path(module.__file__)


def pytest_configure():
    load(os.environ["LCCL_NATIVE"])


def pytest_report_header():
    from lccl.engines.cpu import _native

    return f"native engine: {_native.__file__}"
