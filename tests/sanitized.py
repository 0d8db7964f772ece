"""A pytest plugin: a build of the native engine that watches memory and arithmetic replaces the installed one.

``make check-native`` names the build's folder in ``LCCL_SANITIZED``; each of several processes loads it.
"""

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

PACKAGE = "lccl.engines.cpu"


def load(folder):
    """Load the sanitized module and return its file."""
    (file,) = Path(folder).resolve().joinpath(*PACKAGE.split(".")).glob("_native.*.so")
    if b"__asan_init" not in file.read_bytes() or b"__ubsan_" not in file.read_bytes():
        raise SystemExit(f"{file} was built without sanitizers")
    spec = spec_from_file_location(f"{PACKAGE}._native", file)
    sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])

    from lccl.engines.cpu import engine

    if engine._native.__file__ != str(file):
        raise SystemExit(f"the engine uses {engine._native.__file__}")
    return file


FILE = load(os.environ["LCCL_SANITIZED"])


def pytest_report_header():
    return f"native engine: {FILE}"
