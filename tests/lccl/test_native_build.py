"""The built native engine runs on every x86-64: only files made for an instruction set hold its instructions."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lccl.engines.cpu import _native

BUILD = Path(__file__).parents[2] / "build"
WIDE = re.compile(r"%[yz]mm|%tmm|\t(\{\w+\} )?v[a-z]")  # AVX and all that came after it
SPECIAL = (
    "kernels_avx2", "kernels_avx512", "kernels_avx512_bf16", "kernels_amx",
    "kernels_avx2_int8", "kernels_avx_vnni", "kernels_avx512_vnni", "kernels_amx_int8",
)  # fmt: skip


def tool(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def wide_instructions(file):
    return [line for line in tool("objdump", "-d", "--no-show-raw-insn", file).splitlines() if WIDE.search(line)]


@pytest.fixture(scope="module")
def objects():
    """The object files and archives that the module in use was linked from, by name."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("instruction sets are told apart on x86-64")
    if not shutil.which("objdump") or not shutil.which("nm"):
        pytest.skip("needs objdump and nm (binutils)")
    used = Path(_native.__file__).read_bytes()
    for module in BUILD.glob("*/_native.*"):
        if module.read_bytes() == used:
            files = [*module.parent.rglob("native/*.o"), *module.parent.glob("*.a")]
            return {file.name.split(".")[0]: file for file in files}
    return pytest.skip(f"the object files of {_native.__file__} are not in {BUILD}")


def test_each_source_has_its_object(objects):
    sources = {file.stem for file in (BUILD.parent / "lccl/engines/cpu/native").glob("*.cpp")}
    assert set(objects) == sources | {"libnanobind-static"}


def test_common_code_has_no_special_instructions(objects):
    found = {name: wide_instructions(file) for name, file in objects.items() if name not in SPECIAL}
    assert {name: lines[:3] for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("name", SPECIAL[:2])
def test_special_instructions_are_recognised(objects, name):
    assert len(wide_instructions(objects[name])) > 100


@pytest.mark.parametrize("name", SPECIAL)
class TestSpecialCode:
    def test_is_never_taken_for_common_code(self, objects, name):
        """Of inline functions that several files define the linker keeps one: it must not be a special one."""
        symbols = [line.split(maxsplit=2)[-2:] for line in tool("nm", "--defined-only", objects[name]).splitlines()]
        assert symbols
        assert [symbol for kind, symbol in symbols if kind in "TWwVvui"] == []

    def test_does_not_run_when_the_module_is_loaded(self, objects, name):
        sections = tool("objdump", "-h", objects[name])
        assert ".text" in sections
        assert not re.search(r"\.(init_array|ctors)", sections)
