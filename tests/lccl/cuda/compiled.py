"""Compiles every kernel of some networks for GPUs that need not be there; a program of its own, for no interpreter.

    python -m tests.lccl.cuda.compiled 90 fp16

It prints a line of JSON for each kernel: its name, the instructions that matter, registers, and bytes spilled.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lccl.engines.cuda.batch import Batch
from lccl.engines.cuda.launch import Launch
from lccl.engines.cuda.program import Program
from lccl.engines.cuda.tiles import Tiles
from lccl.networks import Architecture, build
from lccl.networks.lowering import lower
from lccl.networks.sidenet import SideNetSpec
from lccl.plan.geometry import shape_of
from lccl.preprocessing import Preprocessing

TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.int32: "i32", torch.uint8: "u8"}
PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}
NETWORKS = (  # with the blocks that are left of them
    (Architecture("resnet18"), 64, (0, 2)),
    (Architecture("resnet20", "pre", "grouped:2:1x1"), 32, (0, 3)),  # too few channels for lists, then enough
    (Architecture("resnet20", "post", "pointwise"), 32, (0,)),
)


def launches(precision: str) -> Iterator[Launch]:
    """Gates and convolutions with each set of constants, the other kernels once."""
    device, seen = torch.device("cpu"), set()
    for architecture, size, blocks in NETWORKS:
        network = build(architecture).eval()
        network.blocks = torch.nn.ModuleList(network.blocks[block] for block in blocks)
        if architecture.name == "resnet18":
            network.add_sidenets([SideNetSpec(1, 2, 128)])
        plan = lower(network, Preprocessing(size, size, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
        program = Program(plan, 1, device, PRECISIONS[precision], Tiles("defaults", {}))
        batch = Batch.of(plan, shape_of(plan), 1, device, torch.uint8)
        for launch in program.launches(batch):
            varied = "WINDOWS" in launch.arguments
            key = (launch.kernel.__name__, str(constants_of(launch)) if varied else None)
            if key not in seen:
                seen.add(key)
                yield launch


def constants_of(launch: Launch) -> dict[str, Any]:
    """What a kernel is compiled for, in the order of its arguments; one that is not given is a constant too."""
    given = ((param, launch.arguments[param.name]) for param in launch.kernel.params)
    return {param.name: value for param, value in given if param.is_constexpr or value is None}


def compile_for(capability: int, launch: Launch) -> Any:
    """The kernel as its first launch on such a GPU would compile it."""
    constants = constants_of(launch)
    signature, attributes = dict.fromkeys(launch.kernel.arg_names, "i32"), {}
    signature |= dict.fromkeys(constants, "constexpr")
    for number, name in enumerate(launch.kernel.arg_names):
        given = launch.arguments[name]
        if isinstance(given, torch.Tensor):
            signature[name] = f"*{TYPES[given.dtype]}"
            if given.data_ptr() % 16 == 0:
                attributes[(number,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)


def product_loop(code: str) -> str:
    """The innermost loop that holds a matrix product; empty without one."""
    loops = re.findall(r"scf\.for (?:(?!scf\.for).)*?scf\.yield", code, re.DOTALL)
    return next((loop for loop in loops if re.search(r"warp_group_dot |tt\.dot ", loop)), "")


def main(capability: int, precision: str) -> None:
    torch.manual_seed(0)
    np.seterr(all="ignore")
    for launch in launches(precision):
        kernel = compile_for(capability, launch)
        ptx, constants = kernel.asm["ptx"], constants_of(launch)
        row = {
            "kernel": launch.kernel.__name__,
            "groups": constants.get("GROUPS"),
            "from taps": bool(constants.get("CELLS")),
            "stored": constants["WINDOWS"].stored if "WINDOWS" in constants else None,
            "wgmma": "wgmma.mma_async" in ptx,
            "mma": "mma.sync" in ptx,
            "asynchronous": "cp.async" in ptx,
            "local": ".local" in ptx,
            "fused": "fma.rn.f32" in ptx,
            "held up": "tt.load" in product_loop(kernel.asm["ttgir"]),
            "bytes": ptx.count("ld.global.b8"),
            "shared": kernel.metadata.shared,
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
