"""Kernels for GPUs, in Triton; by its interpreter on CPUs, for tests. Imported where used only."""
