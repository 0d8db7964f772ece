"""A pytest plugin: another build of the native engine replaces the installed one.

``LCCL_NATIVE`` names the folder that it was installed into; each of several processes loads it.
"""

import os
import sys
from pathlib import Path

from tests.native_module import PACKAGE, module_of


def load(folder):
    """Have the engine use it, and return its file."""
    module = sys.modules[f"{PACKAGE}._native"] = module_of(folder)

    from lccl.engines.cpu import engine

    if engine._native.__file__ != module.__file__:
        raise SystemExit(f"the engine uses {engine._native.__file__}")
    return Path(module.__file__)


FILE = load(os.environ["LCCL_NATIVE"])


def pytest_report_header():
    return f"native engine: {FILE}"
