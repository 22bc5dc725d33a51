"""Limits of the scheduler."""

from __future__ import annotations

from dataclasses import dataclass

from galerne.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Limits of a step and of the queue."""

    max_num_seqs: int = 64  # running at once
    max_batched_tokens: int = 2048  # of a step, all sequences together
    max_chunk_tokens: int = 512  # of a step, one sequence
    block_size: int = 16  # tokens
    max_waiting: int = 256  # sequences, each choice counts
    max_model_len: int = 4096  # tokens, prompt and generated
    enable_prefix_cache: bool = True
    retry_after_s: float = 1.0  # advice to a caller refused for a full queue

    def __post_init__(self) -> None:
        at_least = {
            "max_num_seqs": 1,
            # One token for each running sequence, so that no prefill can stall a decode.
            "max_batched_tokens": self.max_num_seqs,
            "max_chunk_tokens": 1,
            "block_size": 1,
            "max_waiting": 1,
            "max_model_len": 2,
        }
        for name, least in at_least.items():
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"scheduler.{name}", value, f"must be at least {least}")
        if self.retry_after_s <= 0:
            raise ConfigError(
                "scheduler.retry_after_s", self.retry_after_s, "must be above 0 seconds"
            )
