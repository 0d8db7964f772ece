"""The native engine's module out of a build that is not the installed one."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

PACKAGE = "lccl.engines.cpu"


def module_of(folder):
    """The module below a folder of packages; beside the installed one, which the engine still uses."""
    (file,) = Path(folder).resolve().joinpath(*PACKAGE.split(".")).glob("_native.*.so")
    spec = spec_from_file_location(f"{PACKAGE}._native", file)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
