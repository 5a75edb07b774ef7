"""Fused merge kernels."""
