"""Reads checkpoints of the Mistral Small 4 family, in both layouts they come in."""
