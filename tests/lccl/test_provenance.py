"""Result files name the command that was run, word by word."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest

from lccl import provenance

WORDS = ["--out", "two words", "--no-layers", "it's"]
PROGRAM = "from lccl import provenance; print(provenance.command())"


@pytest.mark.parametrize(
    ("file", "run", "named"),
    [
        ("measure.py", ["{folder}/measure.py"], ["measure.py"]),
        ("package/measure.py", ["-m", "package.measure"], ["python", "-m", "package.measure"]),
        ("package/__main__.py", ["-m", "package"], ["python", "-m", "package"]),
    ],
)
def test_the_command_is_that_of_the_shell(tmp_path, file, run, named):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(PROGRAM)
    command = [sys.executable, *(word.format(folder=tmp_path) for word in run), *WORDS, f"{tmp_path}/images.tar.xz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert shlex.split(done.stdout) == [*named, *WORDS, "images.tar.xz"]


def test_what_the_machine_does_not_tell_is_left_out(monkeypatch):
    """Stand-ins for a machine without git, packages, or Linux's files about processors."""

    def nothing(*_, **__):
        raise FileNotFoundError

    def no_package(_):
        raise provenance.PackageNotFoundError

    monkeypatch.setattr(provenance.subprocess, "run", nothing)
    monkeypatch.setattr(provenance.Path, "read_text", nothing)
    monkeypatch.setattr(provenance, "version", no_package)
    told = provenance.machine()
    assert provenance.commit() == "unknown"
    assert (told["flags"], told["caches"], told["torch"]) == ([], {}, None)
    assert told["cores"] > 0


def test_a_file_names_command_commit_and_machine(tmp_path):
    written = json.loads(provenance.write(tmp_path / "new" / "figures.json", {"rows": [1]}).read_text())
    assert written == {
        "command": provenance.command(), "commit": provenance.commit(), "machine": provenance.machine(), "rows": [1],
    }  # fmt: skip
