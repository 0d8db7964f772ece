"""What the documentation tells to type works when it is typed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/api.md")
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
    from benchmarks.server import served

    with served() as url:
        yield url.removeprefix("http://")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("block", EXAMPLES)
def test_what_the_pages_tell_to_type_is_answered(block, base):
    script = PRELUDE + re.sub(r"^ask\(\).*$", "", block, flags=re.MULTILINE)
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
    (code,) = blocks("docs/your-own-model.md", "python")
    names = {"pixels": np.zeros((2, 32, 32, 3), np.uint8)}
    exec(code, names)
    assert names["output"].logits.shape == (2, 10)


def test_every_link_between_pages_leads_somewhere():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
