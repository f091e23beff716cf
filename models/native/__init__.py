"""Kernels for the CPU, and programs that run on them."""
