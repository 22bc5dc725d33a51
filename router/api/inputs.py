"""What a client asks for, before defaults are filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from galerne.errors import ConfigError
from router.chat.encode import ChatInput
from router.chat.image_files import ImageLimits

MIB = 1024 * 1024


class SamplingFields(TypedDict, total=False):
    """The fields of ``SamplingParams`` that a client has set; ``top_k`` -1 means 0."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    seed: int
    logit_bias: Mapping[int, float]
    min_tokens: int
    max_tokens: int
    stop: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    ignore_eos: bool
    n: int
    logprobs: int
    prompt_logprobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateInput:
    """A prompt to continue: text, which is encoded with <s> in front, or ids."""

    prompt: str | Sequence[int]
    images: Sequence[bytes] = ()  # files, in order of their tokens; only with ids
    sampling: SamplingFields = field(default_factory=SamplingFields)
    default_max_tokens: int | None = None  # None: what the model's length leaves
    request_id: str | None = None  # drawn if None
    model: str = ""  # empty: the served one
    cache_salt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCompletionInput:
    """A conversation to continue."""

    chat: ChatInput
    sampling: SamplingFields = field(default_factory=SamplingFields)
    request_id: str | None = None
    model: str = ""
    cache_salt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiLimits:
    """What a frontend lets through; the model's own limits come on top."""

    max_running: int = 4096  # requests of this frontend at one time
    max_body_bytes: int = 64 * MIB  # of an HTTP body or a gRPC message
    max_prompts: int = 128  # of one /v1/completions request
    max_prompt_chars_per_token: int = 64  # times the model's length: refused without tokenizing
    images: ImageLimits = field(default_factory=ImageLimits)

    def __post_init__(self) -> None:
        for key in ("max_running", "max_body_bytes", "max_prompts", "max_prompt_chars_per_token"):
            if getattr(self, key) < 1:
                raise ConfigError(f"limits.{key}", getattr(self, key), "must be at least 1")
