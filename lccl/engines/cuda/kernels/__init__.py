"""Triton kernels, one file per kind of step; what they are given is prepared elsewhere."""
