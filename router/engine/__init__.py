"""Scheduler, block pool, sampler and the engine loop."""
