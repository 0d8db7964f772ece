"""The client needs neither the server's packages nor, without its extra, those of the load generator."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

SERVER = ("torch", "lccl", "service", "fastapi", "starlette", "uvicorn")
EXTRA = ("numpy", "PIL", "rich", "typer", "httptools", "uvloop")


def run_without(blocked, code):
    block = f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))"
    return subprocess.run([sys.executable, "-c", f"{block}\n{code}"], capture_output=True, text=True, check=False)


def test_the_client_runs_without_server_and_extra():
    done = run_without(SERVER + EXTRA, "from lccl_client import Client; print(Client('http://x').ready)")
    assert done.returncode == 0, done.stderr


def test_the_command_runs_without_the_server():
    done = run_without(SERVER, "sys.argv[1:] = ['bench', '--help']; from lccl_client.__main__ import main; main()")
    assert done.returncode == 0, done.stderr
    assert "--rate" in done.stdout


def test_the_command_without_its_extra_says_what_is_missing():
    done = run_without(EXTRA, "from lccl_client.__main__ import main; main()")
    assert done.returncode == 1
    assert "install lccl-client[bench]" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_declares_no_dependency_on_the_server():
    project = tomllib.loads((Path(__file__).parents[2] / "client" / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["bench"]]
    assert not {one.partition(">")[0] for one in wanted} & set(SERVER)
