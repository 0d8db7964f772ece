"""compile(): the one place where an engine is chosen, once, at load."""

from __future__ import annotations

import torch

from lccl.bundle import Bundle
from lccl.engines.base import Engine
from lccl.errors import EngineError
from lccl.lowering import lower, shape_of
from lccl.networks import ResNet
from lccl.preprocessing import Preprocessing


def compile(
    model: Bundle | ResNet,
    device: str = "auto",
    precision: str = "fp32",
    engine: str = "auto",
    preprocessing: Preprocessing | None = None,
) -> Engine:
    """Lower a bundle or a network and make the engine that runs it.

    Args:
        model: a bundle, or a network.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.
        precision: ``fp32`` or ``fp64``.
        engine: ``auto`` or ``reference``.
        preprocessing: a bare network's input; without it pixels get mean 0.5 and deviation 0.5.

    Raises:
        EngineError: there is no such engine, device or precision here; nothing else is taken instead.

    """
    if engine not in ("auto", "reference"):
        raise EngineError(f"unknown engine {engine!r}: use auto or reference")
    if isinstance(model, Bundle):
        network, preprocessing = model.network, model.preprocessing
    else:
        network, size = model, model.image_size
        preprocessing = preprocessing or Preprocessing(size, size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    place = choose_device(device)
    plan = lower(network, preprocessing)
    from lccl.engines.reference import ReferenceEngine

    return ReferenceEngine(plan, shape_of(plan), place, precision)


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
