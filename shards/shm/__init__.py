"""Frames between processes of one host: shared memory, rings in it, bells to wake one another."""
