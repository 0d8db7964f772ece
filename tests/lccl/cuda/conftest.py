"""Fixtures of the GPU engine's tests: on a GPU its kernels run compiled, elsewhere Triton's interpreter runs them."""

from __future__ import annotations

import pytest
import torch

from lccl.engines.cuda.tiles import Tiles
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
    """``compile_network(plan, precision="fp16", batch_limit=8)``."""
    pytest.importorskip("triton", reason=NO_TRITON)
    from lccl.engines.cuda.engine import CudaEngine

    def make(plan, precision="fp16", batch_limit=8):
        return CudaEngine(plan, device, precision, batch_limit=batch_limit)

    return make


@pytest.fixture(scope="session")
def make_stepper(device):
    """``make_stepper(plan, precision)``: runs single steps of a plan, for up to 16 images."""
    pytest.importorskip("triton", reason=NO_TRITON)
    from lccl.engines.cuda.program import Program

    def make(plan, precision):
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        return Stepper(Program(plan, 16, device, dtype, Tiles("defaults", {})), precision)

    return make
