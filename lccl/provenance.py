"""Where figures come from: the commit, the machine and the versions that every result file names."""

import json
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimddp", "i8mm")
PACKAGES = ("torch", "numpy", "onnxruntime", "openvino", "nncf", "ncnn")


def write(file: Path, figures: dict[str, Any]) -> Path:
    """Write figures as JSON, with the command, commit and machine that made them, and return the path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"command": command(), "commit": commit(), "machine": machine(), **figures}
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return file


def command() -> str:
    """The process's command line, quoted for a shell: a script by its name, a module as ``python -m`` takes it.

    Of absolute paths it has the names alone: where a machine keeps its data says nothing about the figures.
    """
    module = sys.modules["__main__"].__spec__
    program = [Path(sys.argv[0]).name] if module is None else ["python", "-m", module.name.removesuffix(".__main__")]
    arguments = (Path(argument).name if Path(argument).is_absolute() else argument for argument in sys.argv[1:])
    return shlex.join([*program, *arguments])


def commit() -> str:
    """The commit of the working tree that this file lies in, ``-dirty`` where it was changed."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def machine() -> dict[str, Any]:
    """Processor, cores, caches, instruction sets that matter here, and versions."""
    info = _cpuinfo()
    flags = set(info.get("flags", info.get("Features", "")).split())  # Features on arm64
    return {
        "processor": info.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "flags": [flag for flag in FLAGS if flag in flags],
        "caches": _caches(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries in /proc/cpuinfo; none where there is no such file."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _caches() -> dict[str, str]:
    """Sizes of the first core's caches by level, such as ``{"L1d": "32K", "L2": "1024K"}``."""
    sizes = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        suffix = {"Data": "d", "Instruction": "i"}.get(kind, "")
        sizes[f"L{level}{suffix}"] = size
    return sizes
