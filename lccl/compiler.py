"""compile(): the one place where an engine is chosen, once, at load."""

from __future__ import annotations

import torch

from lccl.bundle import Bundle
from lccl.engines.base import Engine
from lccl.errors import EngineError
from lccl.lowering import lower, shape_of
from lccl.networks import ResNet
from lccl.plan import Plan
from lccl.preprocessing import Preprocessing


def compile(
    model: Bundle | ResNet,
    device: str = "auto",
    precision: str = "fp32",
    engine: str = "auto",
    preprocessing: Preprocessing | None = None,
    *,
    threads: int = 0,
    streams: int = 1,
    instruction_set: str = "auto",
) -> Engine:
    """Lower a bundle or a network and make the engine that runs it.

    Args:
        model: a bundle, or a network.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.
        precision: ``fp32``, ``bf16`` (cpu) or ``fp64`` (reference).
        engine: ``cpu``, ``reference`` or ``auto``: cpu for fp32 and bf16 on a CPU, else reference; reference too for
            split convolutions, which it alone runs.
        preprocessing: a bare network's input; without it pixels get mean 0.5 and deviation 0.5.
        threads: of the cpu engine; 0 takes one per core.
        streams: of the cpu engine: how many calls run at once when they share its threads.
        instruction_set: of the cpu engine; ``auto`` takes the fastest that runs here.

    Raises:
        EngineError: there is no such engine, device or precision here; nothing else is taken instead.

    """
    if isinstance(model, Bundle):
        network, preprocessing = model.network, model.preprocessing
    else:
        network, size = model, model.image_size
        preprocessing = preprocessing or Preprocessing(size, size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    place = choose_device(device)
    plan = lower(network, preprocessing)
    chosen = _choose_engine(engine, place, precision, plan)
    if chosen == "cpu":
        return _cpu_engine(plan, precision, threads, streams, instruction_set)
    from lccl.engines.reference import ReferenceEngine

    return ReferenceEngine(plan, shape_of(plan), place, precision)


def _choose_engine(engine: str, device: torch.device, precision: str, plan: Plan) -> str:
    if engine not in ("auto", "cpu", "reference"):
        raise EngineError(f"unknown engine {engine!r}: use auto, cpu or reference")
    if engine == "auto":
        return "cpu" if device.type == "cpu" and precision != "fp64" and not plan.splits else "reference"
    if engine == "cpu" and device.type != "cpu":
        raise EngineError(f"the cpu engine does not run on {device}: use device cpu or engine reference")
    return engine


def _cpu_engine(plan: Plan, precision: str, threads: int, streams: int, instruction_set: str) -> Engine:
    try:
        from lccl.engines.cpu.engine import CpuEngine
    except ImportError as error:
        raise EngineError(
            "the cpu engine is not built here: install the package with pip, or use engine reference"
        ) from error
    return CpuEngine(plan, shape_of(plan), precision, threads=threads, streams=streams, instruction_set=instruction_set)


def choose_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is the CPU.

    Raises:
        EngineError: there is none here.

    """
    if name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EngineError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:i") from error
    if device.type not in ("cpu", "cuda"):
        raise EngineError(f"no engine runs on {name!r}: use auto, cpu, cuda or cuda:i")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EngineError(f"there is no {name} here: torch sees {torch.cuda.device_count()} GPUs")
    return device
