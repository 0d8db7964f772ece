"""A pytest plugin: ``tests.native_build`` with a build that watches memory and arithmetic (``make check-native``)."""

from tests.native_build import FILE, pytest_report_header

__all__ = ["pytest_report_header"]

if b"__asan_init" not in FILE.read_bytes() or b"__ubsan_" not in FILE.read_bytes():
    raise SystemExit(f"{FILE} was built without sanitizers")
