"""The built wheel, installed where neither this checkout nor a compiler can be reached: see `make check-wheel`."""

import os
import re
import subprocess
import threading
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest

from lccl.engines.cpu import engine
from tests.lccl.conftest import draw_images, gated_network, make_reference, rows, square
from tests.lccl.cpu.conftest import arithmetic, make_cpu, small
from tests.lccl.cpu.networks import VARIED
from tests.lccl.networks import called
from tests.native_module import module_of

__all__ = ["arithmetic", "draw_images", "gated_network", "make_cpu", "make_reference", "rows", "small", "square"]

pytestmark = pytest.mark.wheel
ROOT = Path(__file__).parents[1]
HOME = ROOT / os.environ.get("WHEEL", "build/wheel")
BIN = HOME / "installed" / "bin"
START_S = 120


@pytest.fixture(scope="module")
def wheel():
    (file,) = (HOME / "dist").glob("*.whl")
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """``run("python", …)``: a program of the environment that has the wheel, started outside the checkout."""
    folder = tmp_path_factory.mktemp("elsewhere")

    def start(program, *arguments, **options):
        environment = {"PATH": str(BIN), "HOME": str(folder)}
        return subprocess.Popen(
            [BIN / program, *arguments], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, **options,
        )  # fmt: skip

    return start


def said(process):
    output = process.communicate(timeout=START_S)[0]
    return process.returncode, output


@pytest.fixture(scope="module")
def served(run):
    process = run("lccl-serve", "--port", "0", "--models", str(ROOT / "models"))
    lines = []
    for line in process.stdout:
        lines.append(line)
        if found := re.search(r"running on (http://[\d.:]+)", line):
            break
    else:
        pytest.fail("".join(lines))
    reader = threading.Thread(target=process.stdout.read, daemon=True)
    reader.start()
    with httpx.Client(base_url=found[1], timeout=30) as client:
        yield client
    process.terminate()
    process.wait(START_S)
    reader.join()
    process.stdout.close()


def test_it_brings_one_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"lccl"}
    assert "lccl/service/playground/index.html" in names
    assert "lccl/py.typed" in names
    assert not [name for name in names if name.endswith((".cpp", ".hpp")) or "/native/" in name]


def test_it_needs_no_newer_libraries_than_torch(wheel):
    versions = re.findall(r"manylinux_2_(\d+)", wheel.name)
    assert versions
    assert all(int(version) <= 28 for version in versions)


def test_the_service_has_a_name_of_its_own(run):
    code, output = said(
        run("python", "-c", "import lccl.service.app as one; print(one.__file__, flush=True)\nimport service")
    )
    assert code == 1
    assert str(BIN.parent) in output.splitlines()[0]
    assert "No module named 'service'" in output.splitlines()[-1]


def test_it_classifies(served):
    assert served.get("/health/ready").status_code == 200
    answer = served.post(
        "/v1/classify", content=(ROOT / "docs/example.png").read_bytes(), headers={"Content-Type": "image/png"}
    )
    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["classes"][0]["label"] == "parachute"
    assert {model["engine"] for model in served.get("/v1/models").json()["models"]} == {"cpu"}


def test_it_has_its_pages(served):
    assert "<title>" in served.get("/").text
    assert served.get("/docs").status_code == 200


def test_modules_are_commands(run, served):
    code, output = said(run("python", "-m", "lccl.service.auth.keys", "alice"))
    assert code == 0
    assert "sha256" in output
    code, output = said(run("lccl-serve", "--help"))
    assert code == 0
    assert "--models" in output
    code, output = said(run("lccl", "--help"))
    assert code == 0
    assert "calibrate" in output


def test_all_instruction_sets_are_there(run):
    code, output = said(run("python", "-c", "from lccl.engines.cpu._native import *; print(instruction_sets())"))
    assert code == 0
    assert output.strip() == str(engine.instruction_sets())


@pytest.fixture(scope="module")
def other():
    (packages,) = (HOME / "installed").glob("lib/python*/site-packages")
    return module_of(packages)


@pytest.mark.parametrize("architecture", VARIED, ids=called)
def test_another_compiler_gives_the_same_bits(architecture, other, arithmetic, small, make_cpu, rows, monkeypatch):
    """In floating point; in int8 the engine's own tests compare whole networks with a model, to the bit."""
    reference, pixels, thresholds = small(architecture)
    options = rows(thresholds, want_masks=True)
    expected = make_cpu(reference.plan, arithmetic).run(pixels, options)
    monkeypatch.setattr(engine, "_native", other)
    found = make_cpu(reference.plan, arithmetic).run(pixels, options)
    assert np.array_equal(found.logits.view(np.uint32), expected.logits.view(np.uint32))
    assert np.array_equal(found.kept, expected.kept)
    assert all(np.array_equal(one, two) for one, two in zip(found.masks, expected.masks, strict=True))
