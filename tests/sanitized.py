"""A pytest plugin: ``tests.native_build``, for a build that watches memory and arithmetic (``make check-native``)."""

import os

from tests.native_build import load, pytest_report_header

__all__ = ["pytest_report_header"]


def pytest_configure():
    file = load(os.environ["LCCL_NATIVE"])
    if b"__asan_init" not in file.read_bytes() or b"__ubsan_" not in file.read_bytes():
        raise SystemExit(f"{file} was built without sanitizers")
