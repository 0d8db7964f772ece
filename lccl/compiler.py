"""compile_network(): the one place where an engine is chosen, once, at load."""

import logging

import torch

from lccl.bundle.format import Bundle
from lccl.bundle.int8 import Int8
from lccl.engines.base import Engine
from lccl.errors import EngineError, require
from lccl.networks import ResNet
from lccl.networks.lowering import lower
from lccl.plan.steps import Plan
from lccl.preprocessing import Preprocessing
from lccl.quantization.plan import quantise

ENGINES = ("auto", "cpu", "cuda", "reference")
HALF = ("auto", "fp16", "bf16")  # what the cuda engine takes; auto is fp16 there


def compile_network(
    model: Bundle | ResNet,
    device: str = "auto",
    precision: str = "auto",
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
        device: ``cpu``, ``cuda`` (the first GPU) or ``cuda:i``. ``auto`` is a GPU on whose model the cuda engine's
            tests have passed, where that engine can run what is asked for; else the CPU.
        precision: ``fp32`` (cpu, reference), ``int8`` (cpu, reference; of a bundle that was quantised), ``fp16``
            (cuda), ``bf16`` (cpu, cuda) or ``fp64`` (reference). ``auto`` is fp16 on the cuda engine, int8 on the cpu
            engine where the bundle has operating points measured in int8, and fp32 elsewhere; what was taken is the
            engine's ``precision``, and :meth:`lccl.bundle.format.Bundle.in_precision` has the points that hold for it.
        engine: ``cpu``, ``cuda``, ``reference`` or ``auto``: on a CPU the cpu engine, but reference for what it alone
            runs, fp64 and split convolutions; on a GPU the cuda engine, but reference for fp32 and fp64.
            ``cuda`` without a device is the first GPU, whatever its model.
        preprocessing: a bare network's input; without it pixels get mean 0.5 and deviation 0.5. A bundle has its own.
        threads: at most so many, of the cpu engine; 0 takes one per core. The reference engine has PyTorch's threads.
        streams: at most so many, of the cpu engine: calls that run at once when they share its threads.
        instruction_set: of the cpu engine; ``auto`` takes the fastest that runs here. Other engines have no choice.

    Raises:
        EngineError: there is no such engine, device, precision or instruction set here, or a bundle's preprocessing
            was to be another one; nothing else is taken instead.

    """
    int8: Int8 | None = None
    if isinstance(model, Bundle):
        if preprocessing is not None:
            raise EngineError("a bundle has its own preprocessing: leave preprocessing out, or give bundle.network")
        network, preprocessing, int8 = model.network, model.preprocessing, model.int8
    else:
        network, size = model, model.image_size
        preprocessing = preprocessing or Preprocessing(size, size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    if engine not in ENGINES:
        raise EngineError(f"unknown engine {engine!r}: use {', '.join(ENGINES[:-1])} or {ENGINES[-1]}")
    plan = lower(network, preprocessing)
    target = _choose_target(device, engine, precision, plan)
    chosen = _choose_engine(engine, target, precision, plan)
    if chosen != "cpu" and instruction_set != "auto":
        raise EngineError(f"the {chosen} engine has no instruction sets: use auto, or engine cpu for {instruction_set}")
    if chosen == "cuda":
        return _cuda_engine(plan, target, "fp16" if precision == "auto" else precision)
    if precision == "auto":
        precision = "int8" if chosen == "cpu" and _is_measured(int8) and _gains_by_int8(instruction_set) else "fp32"
    if precision == "int8":
        plan = _quantised(plan, int8, target)
    if chosen == "cpu":
        return cpu_engine(plan, precision, threads, streams, instruction_set)
    from lccl.engines.reference import ReferenceEngine

    return ReferenceEngine(plan, target, precision)


def _choose_target(device: str, engine: str, precision: str, plan: Plan) -> torch.device:
    if device == "auto" and engine == "cuda":
        return choose_device("cuda")
    if device == "auto" and engine == "auto" and precision in HALF and not plan.splits:
        from lccl.engines.cuda.devices import proven

        for number in range(torch.cuda.device_count()):
            if proven(torch.cuda.get_device_name(number)):
                return torch.device("cuda", number)
    return choose_device(device)


def _choose_engine(engine: str, target: torch.device, precision: str, plan: Plan) -> str:
    if engine == "auto" and target.type == "cuda":
        return "cuda" if precision in HALF else "reference"
    if engine == "auto":
        lacking = precision == "fp64" or (precision == "int8" and not cpu_offers("int8"))
        return "reference" if lacking or plan.splits else "cpu"
    require(
        EngineError,
        (
            engine != "cpu" or target.type == "cpu",
            f"the cpu engine does not run on {target}: use device cpu or engine reference",
        ),
        (
            engine != "cuda" or target.type == "cuda",
            f"the cuda engine does not run on {target}: use device cuda or engine cpu",
        ),
    )
    return engine


def _is_measured(int8: Int8 | None) -> bool:
    return int8 is not None and int8.table is not None


def _quantised(plan: Plan, int8: Int8 | None, target: torch.device) -> Plan:
    if target.type != "cpu":
        raise EngineError(f"int8 does not run on {target}: use device cpu")
    if int8 is None:
        raise EngineError("there are no int8 weights: quantise a bundle with lccl quantize, or use precision fp32")
    return quantise(plan, int8.quantisation)


def cpu_offers(precision: str, instruction_set: str = "auto") -> bool:
    """Whether the cpu engine is built and computes in that precision on this machine."""
    try:
        from lccl.engines.cpu.engine import instruction_sets
    except ImportError:
        return False
    return any(offered == precision and instruction_set in ("auto", name) for name, offered in instruction_sets())


def _gains_by_int8(instruction_set: str) -> bool:
    """Whether the cpu engine has int8 here; by itself not in plain C++ where fp32 has instructions of its own."""
    from lccl.engines.cpu.engine import instruction_sets

    fastest = {precision: name for name, precision in reversed(instruction_sets())}
    plain = fastest["int8"] == "portable" != fastest["fp32"]
    return cpu_offers("int8", instruction_set) and not (plain and instruction_set == "auto")


def cpu_engine(plan: Plan, precision: str, threads: int = 0, streams: int = 1, instruction_set: str = "auto") -> Engine:
    """The cpu engine for a plan; see :func:`compile_network`.

    Raises:
        EngineError: it is not built here, or lacks something that is asked for.

    """
    try:
        from lccl.engines.cpu.engine import CpuEngine
    except ImportError as error:
        raise EngineError(
            "the cpu engine is not built here: install the package with pip, or use engine reference"
        ) from error
    return CpuEngine(plan, precision, threads=threads, streams=streams, instruction_set=instruction_set)


def _cuda_engine(plan: Plan, target: torch.device, precision: str) -> Engine:
    require(
        EngineError,
        (
            precision in HALF,
            f"the cuda engine has no precision {precision!r}: use fp16 or bf16, or engine reference",
        ),
        (not plan.splits, "the cuda engine does not run split convolutions: use engine reference"),
    )
    try:
        from lccl.engines.cuda.engine import CudaEngine
    except ImportError as error:
        raise EngineError(
            f"the cuda engine cannot be loaded ({error}): install a CUDA build of torch, which brings what it needs"
        ) from error
    engine, log = CudaEngine(plan, target, precision), logging.getLogger("lccl.engines.cuda")
    log.info("the cuda engine works by tiles from: %s", engine.tiles.source)
    if engine.experimental:
        log.warning(
            "the cuda engine is experimental on %s: its tests have not been run there; benchmarks/on_gpu.sh runs them",
            torch.cuda.get_device_name(target),
        )
    return engine


def choose_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is the CPU, ``cuda`` the first GPU.

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
    if device.type == "cpu":
        return device
    number, count = device.index or 0, torch.cuda.device_count()
    if number >= count:
        raise EngineError(
            f"there is no {name} here, torch sees {count} GPUs: use device cpu, or a CUDA build of torch and its driver"
        )
    return torch.device("cuda", number)
