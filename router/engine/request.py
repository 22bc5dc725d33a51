"""What a request is, from the API to the engine and back. No torch, no clock."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from router.engine.rules import AnswerRules
from router.engine.trace_port import RequestTrace


class FinishReason(enum.Enum):
    """Why a choice ended; the value is OpenAI's word."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen. Validated by ``router.engine.validate.check_sampling``."""

    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 keeps all
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0  # a missing seed is drawn at admission and belongs to the request
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    max_tokens: int = 16
    stop: tuple[str, ...] = ()  # matched on text by the frontend
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    n: int = 1
    logprobs: int | None = None  # number of alternatives; 0 gives the chosen token's only
    prompt_logprobs: int | None = None
    speculative: bool = True  # whether guesses may be verified; changes no token


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """One image of a prompt, already preprocessed.

    ``pixels`` is ``[3, height, width]`` float32, normalised; ``offset`` is the prompt position of
    its first token; its layout is ``grid_height`` rows of ``grid_width`` [IMG] and a break or end.
    """

    pixels: npt.NDArray[np.float32]
    offset: int
    grid_width: int
    grid_height: int
    content_hash: bytes  # SHA-256 of size and pixels

    @property
    def num_tokens(self) -> int:
        """Prompt tokens that stand for the image, breaks and end included."""
        return (self.grid_width + 1) * self.grid_height


class ResumedChoice(NamedTuple):
    """How far a choice has come elsewhere."""

    token_ids: tuple[int, ...]  # generated
    is_ended: bool = False


class Hold(NamedTuple):
    """Lets a request outlive the call that made it, for a frontend that comes back for it."""

    grace_s: float  # it is kept so long without a call, running or ended
    owner: bytes  # who may come back: hash of an API key
    context: bytes  # what a frontend needs to shape the answer
    history: tuple[TokenDelta, ...] = ()  # given out by earlier gateways


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt with its parameters, as admitted."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    images: tuple[ImageInput, ...] = ()
    cache_salt: str = ""  # the request's, else the tenant's
    adapter: str = ""  # id of a LoRA adapter; empty: the model as it is
    resumed: tuple[ResumedChoice, ...] = ()  # of every choice, if another gateway ran it before
    hold: Hold | None = None  # None: it ends with its call
    rules: AnswerRules | None = None  # who submits it brings guides that follow them
    priority: int = 0  # among what waits, lower goes first
    owner: bytes = b""  # who may end it: hash of an API key
    # In the frontend alone: of no meaning to the answer.
    trace: RequestTrace | None = field(default=None, compare=False, repr=False)

    @property
    def open_choices(self) -> list[int]:
        """Choices that have not ended elsewhere."""
        if not self.resumed:
            return list(range(self.sampling.n))
        return [choice for choice, resumed in enumerate(self.resumed) if not resumed.is_ended]


class TokenLogprob(NamedTuple):
    """Log probability of one token, before temperature and filters."""

    token_id: int
    logprob: float


class TokenLogprobs(NamedTuple):
    """The token at a position and the most likely ones there, by (-logprob, id)."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


def num_kept_of(positions: Iterable[TokenLogprobs | None]) -> int:
    """What log probabilities cost to keep, each as one token."""
    return sum(1 + len(position.top) for position in positions if position is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDelta:
    """New tokens of one choice. The last delta of a choice carries ``finish_reason``."""

    request_id: str
    choice: int
    offset: int  # of the first token here among the choice's generated tokens
    token_ids: Sequence[int]
    logprobs: Sequence[TokenLogprobs] = ()  # one per token if asked for
    prompt_logprobs: Sequence[TokenLogprobs | None] = ()  # with the first delta if asked for
    num_cached_tokens: int = 0  # prompt tokens taken from the prefix cache
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None  # the stop token that ended the choice, if one did
    error: str = ""  # set with FinishReason.ERROR

    @property
    def num_kept(self) -> int:
        """What it costs to keep: its tokens, and every log probability as one more."""
        num_logprobs = num_kept_of(self.logprobs) + num_kept_of(self.prompt_logprobs)
        return len(self.token_ids) + num_logprobs
