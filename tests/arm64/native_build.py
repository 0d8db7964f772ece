"""A pytest plugin: the native engine runs on an emulated arm64, and all else here (``make check-native-arm64``).

Only instruction sets of arm64 take part; the others are tested where they are not emulated.
"""

import sys

from tests.arm64.remote import Remote


class Neon(Remote):
    def instruction_sets(self):
        return [one for one in super().instruction_sets() if one[0].startswith("neon")]


NATIVE = sys.modules["lccl.engines.cpu._native"] = Neon()

from lccl.engines.cpu import engine  # noqa: E402

if engine._native is not NATIVE:
    raise SystemExit("the engine uses another build")


def pytest_report_header():
    return f"native engine: {NATIVE.__file__}"
