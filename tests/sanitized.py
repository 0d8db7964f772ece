"""Runs pytest with a build of the native engine that watches memory and arithmetic (``make check-native``).

``python tests/sanitized.py FOLDER [pytest's arguments]``: the module under FOLDER takes the place of the installed one.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

PACKAGE = "lccl.engines.cpu"


def main(folder, *arguments):
    (file,) = Path(folder).resolve().joinpath(*PACKAGE.split(".")).glob("_native.*.so")
    if b"__asan_init" not in file.read_bytes() or b"__ubsan_" not in file.read_bytes():
        sys.exit(f"{file} was built without sanitizers")
    spec = spec_from_file_location(f"{PACKAGE}._native", file)
    sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])

    from lccl.engines.cpu import engine

    if engine._native.__file__ != str(file):
        sys.exit(f"the engine uses {engine._native.__file__}")
    print(f"with {file}: {engine._native.instruction_sets()}", flush=True)
    return pytest.main(list(arguments))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
