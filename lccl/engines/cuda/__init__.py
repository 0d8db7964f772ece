"""The GPU engine: Triton kernels that compute only kept positions, one CUDA graph per batch size."""
