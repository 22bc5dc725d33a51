"""What a client asks for, before defaults are filled in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

from galerne.errors import ConfigError
from router.api.image_urls import ImageUrlPolicy
from router.chat.encode import ChatInput
from router.chat.image_files import ImageLimits
from router.chat.tool_choice import ToolChoice
from router.guidance.formats import OutputFormat

MIB = 1024 * 1024

_AT_LEAST_1 = (
    "max_running",
    "max_body_bytes",
    "max_prompts",
    "max_prompt_chars_per_token",
    "max_parked",
    "max_parked_tokens",
)


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
    speculative: bool


class Resumable(NamedTuple):
    """The wish that a request outlives its client, who may come back for it."""

    owner: bytes  # ``ApiKeys.owner`` of the client; nobody else may come back
    page: Mapping[str, Any] = {}  # how HTTP shows the answer: plain JSON values


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateInput:
    """A prompt to continue: text, which is encoded with <s> in front, or ids."""

    prompt: str | Sequence[int]
    images: Sequence[bytes] = ()  # files, in order of their tokens; only with ids
    sampling: SamplingFields = field(default_factory=SamplingFields)
    default_max_tokens: int | None = None  # None: what the model's length leaves
    output: OutputFormat | None = None  # None: free text
    thinking_token_budget: int | None = None  # None: as long as the model likes
    request_id: str | None = None  # drawn if None
    model: str = ""  # empty: the served one
    cache_salt: str = ""
    resumable: Resumable | None = None  # None: it ends with its client
    priority: int = 0  # among what waits, lower goes first (vLLM's meaning)
    timeout_s: float | None = None  # from its arrival to its end; None: the server's


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCompletionInput:
    """A conversation to continue."""

    chat: ChatInput
    sampling: SamplingFields = field(default_factory=SamplingFields)
    output: OutputFormat | None = None  # of the content; None: free text
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    parallel_tool_calls: bool = True  # several calls in one answer
    thinking_token_budget: int | None = None  # None: as long as the model likes
    request_id: str | None = None
    model: str = ""
    cache_salt: str = ""
    resumable: Resumable | None = None
    priority: int = 0
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiLimits:
    """What a frontend lets through; the model's own limits come on top."""

    max_running: int = 4096  # requests of this frontend at one time
    max_body_bytes: int = 64 * MIB  # of an HTTP body or a gRPC message
    body_timeout_s: float = 60.0  # until an HTTP body is there
    max_prompts: int = 128  # of one /v1/completions request
    max_prompt_chars_per_token: int = 64  # times the model's length: refused without tokenizing
    resume_grace_s: float = 30.0  # a resumable request is kept so long without its client
    max_parked: int = 64  # resumable requests of one key without a client; the oldest give way
    max_parked_tokens: int = (
        1 << 18
    )  # of their prompts and answers; a log probability counts as one
    request_timeout_s: float | None = None  # of a request that sets none; None: no limit
    images: ImageLimits = field(default_factory=ImageLimits)
    image_urls: ImageUrlPolicy = field(default_factory=ImageUrlPolicy)

    def __post_init__(self) -> None:
        for key in _AT_LEAST_1:
            if getattr(self, key) < 1:
                raise ConfigError(f"limits.{key}", getattr(self, key), "must be at least 1")
        for key in ("resume_grace_s", "body_timeout_s"):
            if not 0 < getattr(self, key) < math.inf:
                problem = "must be a number of seconds above 0"
                raise ConfigError(f"limits.{key}", getattr(self, key), problem)
        timeout_s = self.request_timeout_s
        if timeout_s is not None and not 0 < timeout_s < math.inf:
            problem = "must be a number of seconds above 0"
            raise ConfigError("limits.request_timeout_s", timeout_s, problem)
