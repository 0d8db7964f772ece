"""The name under which the folder ``service`` beside this one is installed; in a wheel it lies here itself."""

from pathlib import Path
from runpy import run_module

__path__ = [str(Path(__file__).resolve().parents[1] / "service")]

if __name__ == "__main__":  # a module is no package to `python -m`
    run_module("lccl.service.__main__", run_name="__main__", alter_sys=True)
