"""The native engine on emulated arm64 processors: what it finds there, runs, and gives the same bits in."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from lccl.engines.cpu import engine
from lccl.engines.cpu.engine import CpuEngine
from lccl.networks import Architecture
from tests.arm64.remote import BUILD, Remote
from tests.lccl.conftest import draw_images, gated_network, make_reference, rows, square
from tests.lccl.cpu.test_int8_networks import answers, check

__all__ = ["answers", "draw_images", "gated_network", "make_reference", "rows", "square"]

pytestmark = pytest.mark.arm64
# Graviton 1, then 2, and a processor that has everything.
PROCESSORS = {"cortex-a72": ["neon"], "neoverse-n1": ["neon_dot", "neon"], "max": ["neon_i8mm", "neon_dot", "neon"]}
DOT = re.compile(r"\t(s|u|us|su)dot\t")


@pytest.fixture(scope="module", params=PROCESSORS)
def processor(request):
    """A processor's name and the engine on it."""
    remote = Remote(request.param)
    yield request.param, remote
    remote.close()


def test_it_runs_what_the_processor_has(processor):
    name, remote = processor
    assert [one for one, _ in remote.instruction_sets() if one.startswith("neon")] == PROCESSORS[name]
    assert ("portable", "int8") in remote.instruction_sets()


def test_int8_gives_the_bits_of_the_model_there(processor, answers, monkeypatch):
    name, remote = processor
    plan, pixels, options, states = answers(Architecture("resnet20"))
    monkeypatch.setattr(engine, "_native", remote)
    made = CpuEngine(plan, "int8", threads=2)
    assert made.instruction_set == {"neon": "portable"}.get(PROCESSORS[name][0], PROCESSORS[name][0])
    check(made.run(pixels, options), states)


@pytest.fixture(scope="module")
def objects():
    files = BUILD.with_name("arm64-objects").rglob("native/*.o")
    return {file.name.split(".")[0]: file for file in files}


def tool(name, *arguments):
    program = shutil.which(f"aarch64-linux-gnu-{name}")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True).stdout


def test_common_code_runs_on_every_arm64(objects):
    """Only the two files for them have dot products, and none of their code stands in for common code."""
    found = {name for name, file in objects.items() if DOT.search(tool("objdump", "-d", "--no-show-raw-insn", file))}
    assert found == {"kernels_neon_dot", "kernels_neon_i8mm"}
    for name in found:
        kinds = [line.split()[-2] for line in tool("nm", "--defined-only", "--format=bsd", objects[name]).splitlines()]
        assert kinds
        assert not set(kinds) & set("TWwVvui")
        assert not re.search(r"\.(init_array|ctors)", tool("objdump", "-h", objects[name]))
