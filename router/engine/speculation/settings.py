"""What a deployment says of guessing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from galerne.errors import ConfigError

SPECULATIVE = ("auto", "off", "ngram", "eagle")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationSettings:
    """Who guesses at the next tokens, and how many.

    ``auto``: the Eagle head if there is one, else n-grams, and only while it pays. ``ngram`` and
    ``eagle``: always.
    """

    speculative: str = "off"
    num_draft_tokens: int = 4  # per sequence and step, at most
    draft_model: Path | None = None  # directory of the head; unset: eagle/ in the checkpoint's

    def __post_init__(self) -> None:
        if self.speculative not in SPECULATIVE:
            problem = f"must be one of {', '.join(SPECULATIVE)}"
            raise ConfigError("speculative", self.speculative, problem)
