"""The native engine compiled for arm64, in a process that qemu emulates, with the interface of the module."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np

from tests.arm64.server import arrays_of

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "arm64"
ROOT = BUILD / "root"


class Remote:
    """Stands in for ``lccl.engines.cpu._native``: what it makes and calls lies in a process of that processor.

    Args:
        processor: one of those that ``qemu-aarch64 -cpu help`` lists.

    """

    def __init__(self, processor="max"):
        self.__file__ = str(next((BUILD / "packages").glob("lccl/engines/cpu/_native.*.so")))
        self._lock, self.dropped = threading.Lock(), []
        self._process = subprocess.Popen(
            [
                shutil.which("qemu-aarch64"), "-cpu", processor, "-L", str(ROOT), str(ROOT / "usr/bin/python3"),
                "-P", str(HERE / "server.py"),
            ],
            env={"PYTHONPATH": f"{BUILD / 'packages'}:{BUILD / 'numpy'}", "PATH": os.environ["PATH"]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip

    def instruction_sets(self):
        return self.call(0, "instruction_sets")

    def second_level_cache(self):
        return self.call(0, "second_level_cache")

    def Executor(self, *args, **kwargs):  # noqa: N802
        return Executor(self, self.call(0, "Executor", *args, **kwargs))

    def call(self, number, name, *args, **kwargs):
        """Call it there, and write into arrays here what the call wrote into them."""
        with self._lock:
            dropped, self.dropped = self.dropped, []
            pickle.dump((dropped, number, name, args, kwargs), self._process.stdin)
            self._process.stdin.flush()
            reply = pickle.load(self._process.stdout)
        if isinstance(reply, Exception):
            raise reply
        value, arrays = reply
        for mine, theirs in zip(arrays_of([args, kwargs]), arrays, strict=True):
            if mine.flags.writeable:
                np.copyto(mine, theirs)
        return value

    def close(self):
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class Executor:
    def __init__(self, remote, number):
        self._remote, self._number = remote, number

    def run(self, *args, **kwargs):
        return self._remote.call(self._number, "run", *args, **kwargs)

    def run_step(self, *args, **kwargs):
        return self._remote.call(self._number, "run_step", *args, **kwargs)

    def __getattr__(self, name):
        return self._remote.call(self._number, name)

    def __del__(self):  # in the midst of another call, perhaps
        self._remote.dropped.append(self._number)
