"""Runs in the arm64 Python: calls the native engine for whom its standard input names, until that ends.

Each message is a pickled ``(dropped, number, name, args, kwargs)``: objects that nobody needs any more, and what to
call of an executor, or of the module, which is number 0. Each answer is ``(value, arrays)``, the arrays among the
arguments as the call left them, or the exception it raised. An executor that is made is answered by its number.
"""

import pickle
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np


def load(packages):
    """The module, whose name is that of the processor it was compiled on."""
    (file,) = packages.glob("lccl/engines/cpu/_native.*.so")
    spec = spec_from_file_location("_native", file)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arrays_of(value):
    """The arrays in arguments, in order."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from arrays_of(one)
    elif isinstance(value, dict):
        yield from arrays_of(list(value.values()))


def answer(objects, number, name, args, kwargs):
    value = getattr(objects[number], name)
    if callable(value):
        value = value(*args, **kwargs)
    if type(value) is objects[0].Executor:
        number = max(objects) + 1
        objects[number], value = value, number
    return value


def main():
    objects = {0: load(Path(__file__).parents[2] / "build/arm64/packages")}
    while True:
        try:
            dropped, number, name, args, kwargs = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        for one in dropped:
            del objects[one]
        try:
            reply = answer(objects, number, name, args, kwargs), [*arrays_of([args, kwargs])]
        except (ValueError, TypeError, RuntimeError) as error:
            reply = error
        pickle.dump(reply, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
