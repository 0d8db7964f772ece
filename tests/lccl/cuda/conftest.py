"""Fixtures of the GPU engine's tests: on a GPU its kernels run compiled, elsewhere Triton's interpreter runs them."""

from __future__ import annotations

import pytest
import torch

from lccl.engines.cuda.tiles import Tiles
from lccl.plan.geometry import shape_of
from tests.lccl.cuda.stepper import Stepper

NO_TRITON = "Triton is not installed: builds of torch for CUDA bring it along, and pip has it for Linux"

pytest.register_assert_rewrite("tests.lccl.comparison")


@pytest.fixture(scope="session")
def device():
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session", params=["fp16", "bf16"])
def precision(request):
    if request.param == "bf16" and not torch.cuda.is_available():
        pytest.skip("Triton's interpreter takes bfloat16 operands of a product for integers: this needs a GPU")
    return request.param


@pytest.fixture(scope="session")
def compile_network(device):
    """``make_engine(plan, precision="fp16", batch_limit=8)``: by layers, whatever the network's size."""
    pytest.importorskip("triton", reason=NO_TRITON)
    from lccl.engines.cuda.engine import CudaEngine

    def make(plan, precision="fp16", batch_limit=8, program="layers", **options):
        options |= {"batch_limit": batch_limit, "program": program}
        return CudaEngine(plan, device, precision, **options)

    return make


@pytest.fixture(scope="session")
def make_stepper(device):
    """``make_stepper(plan, precision)``: runs single steps of a plan, for up to 16 images."""
    pytest.importorskip("triton", reason=NO_TRITON)
    from lccl.engines.cuda.layer_program import LayerProgram

    def make(plan, precision, dense=False):
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        program = LayerProgram(plan, shape_of(plan), 16, device, dtype, Tiles("defaults", {}))
        return Stepper(program, precision, (dense,) * len(plan.layers))

    return make
