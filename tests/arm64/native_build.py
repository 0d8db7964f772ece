"""A pytest plugin: the native engine runs on an emulated arm64 processor, and all else here (``make check-native-arm64``)."""

import sys

from tests.arm64.remote import Remote

NATIVE = sys.modules["lccl.engines.cpu._native"] = Remote()

from lccl.engines.cpu import engine  # noqa: E402

if engine._native is not NATIVE:
    raise SystemExit("the engine uses another build")


def pytest_report_header():
    return f"native engine: {NATIVE.__file__}, {NATIVE.instruction_sets()}"
