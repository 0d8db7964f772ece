"""Light modules load without torch, triton is imported in the cuda engine alone, and public names are lazy."""

import subprocess
import sys
from pathlib import Path

import pytest

import lccl

SOURCES = sorted(Path(lccl.__file__).parent.rglob("*.py"))
LIGHT = [
    "lccl", "lccl.plan.steps", "lccl.plan.geometry", "lccl.plan.memory", "lccl.plan.run", "lccl.operating_points",
    "lccl.request", "lccl.errors", "lccl.json_values", "lccl.provenance", "lccl.preprocessing", "lccl.data",
    "lccl.calibration.intervals", "lccl.bundle.training_record", "lccl.train.reliability",
]  # fmt: skip
LIGHT_SERVICE = [
    "service.inference.decode", "service.inference.batcher", "service.api.v1.classify", "service.api.v1.models",
    "service.api.operations",
]  # fmt: skip


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("names", [LIGHT, LIGHT_SERVICE])
def test_they_import_without_torch(names):
    result = run(f"import sys; sys.modules['torch'] = None; import {', '.join(names)}")
    assert result.returncode == 0, result.stderr


def test_blocking_torch_does_block_it():
    result = run("import sys; sys.modules['torch'] = None; import lccl.networks.gates")
    assert "ModuleNotFoundError" in result.stderr


def test_importing_the_library_imports_neither_torch_nor_numpy():
    result = run("import sys, lccl; print([name for name in ('torch', 'numpy') if name in sys.modules])")
    assert result.stdout.strip() == "[]"


def test_its_public_names_are_there_on_first_use():
    for name in lccl.__all__:
        assert getattr(lccl, name).__name__ == {"compile": "compile_network"}.get(name, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lccl.nothing


def test_triton_is_mentioned_in_the_cuda_engine_alone():
    folder = Path(lccl.__file__).parent / "engines" / "cuda"
    assert len(SOURCES) > 20
    for file in SOURCES:
        assert folder in file.parents or "triton" not in file.read_text().lower(), file


def test_an_engine_is_imported_only_when_it_is_chosen():
    result = run("import sys, lccl.compiler; print([name for name in sys.modules if name.startswith('lccl.engines.')])")
    assert result.stdout.strip() == "['lccl.engines.base']"
