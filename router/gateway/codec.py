"""Requests and deltas as messages of ``galerne.v1`` and back. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from galerne.v1 import inference_pb2 as pb
from galerne.v1 import internal_pb2 as internal
from router.engine.gateway_port import GatewayLoad, ModelFacts
from router.engine.request import (
    FinishReason,
    GenerationRequest,
    Hold,
    ImageInput,
    ResumedChoice,
    SamplingParams,
    TokenDelta,
    TokenLogprob,
    TokenLogprobs,
)
from router.engine.rules import AnswerRules, GrammarStart

_REASON = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.ABORT: pb.FINISH_REASON_ABORT,
    FinishReason.ERROR: pb.FINISH_REASON_ERROR,
}
_REASON_BACK = {message: reason for reason, message in _REASON.items()}
_SCALARS = (
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "seed", "min_tokens", "max_tokens", "ignore_eos", "n", "logprobs",
    "prompt_logprobs", "speculative",
)  # fmt: skip


def encode_request(request: GenerationRequest) -> internal.SubmitRequest:
    """A validated request, every sampling field set."""
    return internal.SubmitRequest(
        request_id=request.request_id,
        prompt_token_ids=request.prompt_token_ids,
        images=[_encode_image(image) for image in request.images],
        sampling=_encode_sampling(request.sampling),
        cache_salt=request.cache_salt,
        adapter=request.adapter,
        resumed=[internal.ResumedChoice(**choice._asdict()) for choice in request.resumed],
        hold=None if request.hold is None else _encode_hold(request.hold),
        rules=None if request.rules is None else _encode_rules(request.rules),
        priority=request.priority,
        owner=request.owner,
    )


def decode_request(message: internal.SubmitRequest) -> GenerationRequest:
    """The request as it was before ``encode_request`` (float fields rounded to float32)."""
    return GenerationRequest(
        request_id=message.request_id,
        prompt_token_ids=tuple(message.prompt_token_ids),
        sampling=_decode_sampling(message.sampling),
        images=tuple(_decode_image(image) for image in message.images),
        cache_salt=message.cache_salt,
        adapter=message.adapter,
        resumed=tuple(ResumedChoice(tuple(c.token_ids), c.is_ended) for c in message.resumed),
        hold=_decode_hold(message) if message.HasField("hold") else None,
        rules=_decode_rules(message.rules) if message.HasField("rules") else None,
        priority=message.priority,
        owner=message.owner,
    )


def _encode_rules(rules: AnswerRules) -> internal.AnswerRules:
    return internal.AnswerRules(
        grammar=rules.grammar,
        start=rules.start.value,
        may_think=rules.may_think,
        is_thinking=rules.is_thinking,
        has_tools=rules.has_tools,
        max_thinking_tokens=rules.max_thinking_tokens,
    )


def _decode_rules(message: internal.AnswerRules) -> AnswerRules:
    has_most = message.HasField("max_thinking_tokens")
    return AnswerRules(
        grammar=message.grammar,
        start=GrammarStart(message.start),
        may_think=message.may_think,
        is_thinking=message.is_thinking,
        has_tools=message.has_tools,
        max_thinking_tokens=message.max_thinking_tokens if has_most else None,
    )


def _encode_hold(hold: Hold) -> internal.Hold:
    history = map(encode_delta, hold.history)
    return internal.Hold(
        grace_s=hold.grace_s, owner=hold.owner, context=hold.context, history=history
    )


def _decode_hold(message: internal.SubmitRequest) -> Hold:
    hold = message.hold
    history = tuple(decode_delta(message.request_id, event) for event in hold.history)
    return Hold(hold.grace_s, hold.owner, hold.context, history)


def _encode_sampling(params: SamplingParams) -> pb.SamplingParams:
    scalars = {name: getattr(params, name) for name in _SCALARS}
    return pb.SamplingParams(
        **{name: value for name, value in scalars.items() if value is not None},
        logit_bias=dict(params.logit_bias),
        stop=params.stop,
        stop_token_ids=params.stop_token_ids,
    )


def _decode_sampling(message: pb.SamplingParams) -> SamplingParams:
    scalars = {name: getattr(message, name) for name in _SCALARS if message.HasField(name)}
    return SamplingParams(
        **scalars,
        logit_bias=dict(message.logit_bias),
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
    )


def _encode_image(image: ImageInput) -> internal.Image:
    _, height, width = image.pixels.shape
    return internal.Image(
        pixels=np.ascontiguousarray(image.pixels, dtype="<f4").tobytes(),
        height=height,
        width=width,
        offset=image.offset,
        grid_width=image.grid_width,
        grid_height=image.grid_height,
        content_hash=image.content_hash,
    )


def _decode_image(message: internal.Image) -> ImageInput:
    pixels = np.frombuffer(message.pixels, dtype="<f4")
    return ImageInput(
        pixels=pixels.reshape(3, message.height, message.width).astype(np.float32),
        offset=message.offset,
        grid_width=message.grid_width,
        grid_height=message.grid_height,
        content_hash=message.content_hash,
    )


def encode_delta(delta: TokenDelta) -> internal.SubmitEvent:
    """One event. A missing prompt log probability (the first token's) travels as empty."""
    event = internal.SubmitEvent(
        choice=delta.choice,
        offset=delta.offset,
        token_ids=delta.token_ids,
        logprobs=_encode_logprobs(delta.logprobs),
        prompt_logprobs=_encode_logprobs(delta.prompt_logprobs),
        cached_tokens=delta.num_cached_tokens,
        error=delta.error,
    )
    if delta.finish_reason is not None:
        event.finish_reason = _REASON[delta.finish_reason]
    if delta.stop_token_id is not None:
        event.stop_token_id = delta.stop_token_id
    return event


def decode_delta(request_id: str, event: internal.SubmitEvent) -> TokenDelta:
    """The delta as it was."""
    return TokenDelta(
        request_id=request_id,
        choice=event.choice,
        offset=event.offset,
        token_ids=tuple(event.token_ids),
        logprobs=[p for p in map(_decode_logprobs, event.logprobs) if p is not None],
        prompt_logprobs=list(map(_decode_logprobs, event.prompt_logprobs)),
        num_cached_tokens=event.cached_tokens,
        finish_reason=_REASON_BACK.get(event.finish_reason),
        stop_token_id=event.stop_token_id if event.HasField("stop_token_id") else None,
        error=event.error,
    )


def _encode_logprobs(positions: Sequence[TokenLogprobs | None]) -> Iterable[pb.TokenLogprobs]:
    for position in positions:
        if position is None:
            yield pb.TokenLogprobs()
            continue
        chosen, top = position
        yield pb.TokenLogprobs(
            chosen=pb.TokenLogprob(token_id=chosen.token_id, logprob=chosen.logprob),
            top=[pb.TokenLogprob(token_id=t.token_id, logprob=t.logprob) for t in top],
        )


def _decode_logprobs(message: pb.TokenLogprobs) -> TokenLogprobs | None:
    if not message.HasField("chosen"):
        return None
    chosen = TokenLogprob(message.chosen.token_id, message.chosen.logprob)
    return TokenLogprobs(chosen, tuple(TokenLogprob(t.token_id, t.logprob) for t in message.top))


def encode_facts(facts: ModelFacts) -> internal.ModelFacts:
    """Every field under its own name."""
    return internal.ModelFacts(**{name: getattr(facts, name) for name in facts.__slots__})


def decode_facts(message: internal.ModelFacts) -> ModelFacts:
    """The facts as they were."""
    return ModelFacts(**{name: getattr(message, name) for name in ModelFacts.__slots__})


def encode_load(load: GatewayLoad) -> pb.Load:
    """Every field under its own name."""
    return pb.Load(**{name: getattr(load, name) for name in load.__slots__})


def decode_load(message: pb.Load) -> GatewayLoad:
    """The load as it was."""
    return GatewayLoad(**{name: getattr(message, name) for name in GatewayLoad.__slots__})
