"""The embedded model: what ``galerne serve`` serves when no checkpoint is named.

A seeded random checkpoint of the Mistral Small 4 family (2 layers, 128 experts, vision tower), made
by ``shards.checkpoint.random_checkpoint``. It shows the machinery; its words mean nothing.
"""

from __future__ import annotations

from pathlib import Path

MODEL_DIRECTORY = Path(__file__).parent / "model"
MODEL_NAME = "galerne-random-demo"
