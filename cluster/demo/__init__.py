"""The embedded model: what ``galerne serve`` serves when no checkpoint is named.

A small model of the Mistral Small 4 architecture (4 layers, 128 experts, vision tower), trained by
``cluster.demo.training`` on the synthetic conversations of ``cluster.demo.lessons``. It is a
demonstration, not Mistral's model; README.md in this folder says what it can do.
"""

from __future__ import annotations

from pathlib import Path

MODEL_DIRECTORY = Path(__file__).parent / "model"
# Its Eagle head, for ``--draft-model``; where auto does not look for it: on
# a model this small a guess by it takes longer than it saves, and n-grams cost next to nothing.
EAGLE_DIRECTORY = Path(__file__).parent / "eagle"
MODEL_NAME = "galerne-demo"
