"""Experts: checkpoint reading, kernels, expert bank and the shard server."""
