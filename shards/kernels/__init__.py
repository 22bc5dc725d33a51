"""Kernels of the experts, each with a row-invariant order of accumulation."""
