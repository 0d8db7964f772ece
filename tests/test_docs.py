"""What the documentation tells to type works when it is typed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lccl.cli.main import app
from lccl.networks import Architecture

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/api.md", "docs/sidenet.md", "docs/playground.md")
OWN_MODEL = "docs/your-own-model.md"
REFUSED = "sparsity=2"
PRELUDE = """
set -euo pipefail
curl() { command curl --silent --show-error --fail-with-body --max-time 20 "$@"; echo; }
ask() { curl "localhost:8000/v1/classify${1:-}" -H 'Content-Type: image/png' --data-binary @docs/example.png; }
"""


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


EXAMPLES = [
    pytest.param(block, id=f"{page}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "sh"))
    if "localhost:8000/" in block
]


@pytest.fixture(scope="module")
def base():
    from tests.served import served

    with served() as url:
        yield url.removeprefix("http://")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("block", EXAMPLES)
def test_what_the_pages_tell_to_type_is_answered(block, base):
    script = PRELUDE + re.sub(r"^ask\(\).*$", "", block, flags=re.MULTILINE)
    script = script.replace("deadline_ms=40", "deadline_ms=4000")  # other tests may keep the processors busy
    done = subprocess.run(
        ["bash", "-c", script.replace("localhost:8000", base)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if REFUSED in block:
        assert done.returncode == 22
        assert '"bad_wish"' in done.stdout or '"invalid_field"' in done.stdout
    else:
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr
        assert done.stdout.strip()


def test_the_python_of_your_own_model_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    (code,) = (block for block in blocks(OWN_MODEL, "python") if "engine.run" in block)
    names = {"pixels": np.zeros((2, 32, 32, 3), np.uint8)}
    exec(code, names)
    assert names["output"].logits.shape == (2, 10)


@pytest.fixture
def images(tmp_path):
    """Three classes of noise, a folder as the page describes it."""
    random = np.random.default_rng(0)
    for part, count in (("train", 16), ("test", 2)):
        for name in ("blue", "green", "red"):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "images"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_plain_resnet_gets_from_its_weights_to_an_answer(tmp_path, images, random_network, monkeypatch):
    """As the page tells, but on few images, in small batches and two epochs."""
    from tests.served import served

    monkeypatch.chdir(tmp_path)
    (code,) = (block for block in blocks(OWN_MODEL, "python") if "save_file" in block)
    exec(code, {"model": random_network(Architecture("resnet20", gate="none", classes=3))})
    (commands,) = (block for block in blocks(OWN_MODEL, "sh") if "lccl attach" in block)
    for line in commands.splitlines():
        words = shlex.split(
            line.replace("--epochs 5", "--epochs 2 --batch 8").replace("IMAGES", str(images)), comments=True
        )
        done = CliRunner().invoke(app, words[1:])
        assert (words[0], done.exit_code) == ("lccl", 0), done.output
    (ask,) = (block for block in blocks(OWN_MODEL, "sh") if "models/attached/classify" in block)
    with served("--models", str(tmp_path / "models")) as url:
        script = PRELUDE + re.sub("^make serve .*$", "", ask, flags=re.MULTILINE)
        script = script.replace("localhost:8000", url.removeprefix("http://"))
        done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (prediction,) = json.loads(done.stdout)["predictions"]
    assert {one["label"] for one in prediction["classes"]} <= {"blue", "green", "red"}


def test_every_link_between_pages_leads_somewhere():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
