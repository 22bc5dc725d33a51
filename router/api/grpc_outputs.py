"""The frontend's events and facts as gRPC messages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from galerne.adapters import AdapterInfo
from galerne.v1 import inference_pb2 as pb
from router.api.collect import Collected, CollectedChoice
from router.api.events import (
    Accepted,
    ChatDelta,
    EndReason,
    Event,
    Finished,
    PromptLogprobs,
    TokensDelta,
    ToolCallStarted,
    Usage,
)
from router.chat.parse import ContentDelta, ReasoningDelta, ToolArgumentsDelta
from router.chat.tokenizer import Tokenizer
from router.engine.gateway_port import ClusterFacts, GatewayLoad, ModelFacts
from router.engine.request import TokenLogprob, TokenLogprobs

_REASONS = {
    EndReason.STOP: pb.FINISH_REASON_STOP,
    EndReason.LENGTH: pb.FINISH_REASON_LENGTH,
    EndReason.ABORT: pb.FINISH_REASON_ABORT,
    EndReason.ERROR: pb.FINISH_REASON_ERROR,
    EndReason.TOOL_CALLS: pb.FINISH_REASON_TOOL_CALLS,
}


class EventWriter:
    """Turns events into messages; needs the tokenizer for the bytes of tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def generate_event(self, event: Event) -> pb.GenerateEvent:
        """An event of Generate."""
        match event:
            case Accepted():
                return pb.GenerateEvent(accepted=_accepted(event))
            case PromptLogprobs(positions=positions):
                logprobs = pb.PromptLogprobs(positions=self._all_logprobs(positions))
                return pb.GenerateEvent(prompt_logprobs=logprobs)
            case TokensDelta():
                return pb.GenerateEvent(tokens=self._tokens(event))
            case Finished():
                return pb.GenerateEvent(finished=_finished(event))
            case Usage():
                return pb.GenerateEvent(usage=usage_message(event))
            case _:
                raise TypeError(f"no event of Generate: {type(event).__name__}")

    def chat_event(self, event: Event) -> pb.ChatEvent:
        """An event of Chat."""
        match event:
            case Accepted():
                return pb.ChatEvent(accepted=_accepted(event))
            case ChatDelta():
                return pb.ChatEvent(delta=_chat_delta(event))
            case TokensDelta():
                return pb.ChatEvent(tokens=self._tokens(event))
            case Finished():
                return pb.ChatEvent(finished=_finished(event))
            case Usage():
                return pb.ChatEvent(usage=usage_message(event))
            case _:
                raise TypeError(f"no event of Chat: {type(event).__name__}")

    def generate_result(self, collected: Collected) -> pb.GenerateResult:
        """A whole answer."""
        return pb.GenerateResult(
            request_id=collected.accepted.request_id,
            choices=[self._choice(choice) for choice in collected.choices],
            prompt_logprobs=self._all_logprobs(collected.prompt_logprobs),
            usage=usage_message(collected.usage),
        )

    def _choice(self, choice: CollectedChoice) -> pb.GenerateResult.Choice:
        return pb.GenerateResult.Choice(
            token_ids=choice.token_ids,
            text=choice.text,
            logprobs=self._all_logprobs(choice.logprobs),
            finish_reason=_REASONS[choice.end.reason],
            stop=choice.end.stop,
            stop_token_id=choice.end.stop_token_id,
        )

    def _tokens(self, event: TokensDelta) -> pb.TokensDelta:
        return pb.TokensDelta(
            choice=event.choice,
            offset=event.offset,
            token_ids=event.token_ids,
            text=event.text,
            logprobs=self._all_logprobs(event.logprobs),
        )

    def _all_logprobs(
        self, positions: Iterable[TokenLogprobs | None]
    ) -> Iterable[pb.TokenLogprobs]:
        return [pb.TokenLogprobs() if p is None else self._logprobs(p) for p in positions]

    def _logprobs(self, position: TokenLogprobs) -> pb.TokenLogprobs:
        top = [self._logprob(token) for token in position.top]
        return pb.TokenLogprobs(chosen=self._logprob(position.chosen), top=top)

    def _logprob(self, token: TokenLogprob) -> pb.TokenLogprob:
        data = self._tokenizer.token_bytes(token.token_id, keep_special=True)
        return pb.TokenLogprob(token_id=token.token_id, logprob=token.logprob, token=data)


def usage_message(usage: Usage) -> pb.Usage:
    """Tokens of a request."""
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )


def model_info(
    model: ModelFacts, reasoning_efforts: Iterable[str], adapters: Iterable[AdapterInfo] = ()
) -> pb.ModelInfo:
    """What is served."""
    return pb.ModelInfo(
        name=model.name,
        fingerprint=model.fingerprint,
        numerics_profile=model.numerics_profile,
        max_model_len=model.max_model_len,
        vocab_size=model.vocab_size,
        num_layers=model.num_layers,
        num_experts=model.num_experts,
        num_experts_per_tok=model.num_experts_per_tok,
        takes_images=model.takes_images,
        reasoning_efforts=reasoning_efforts,
        adapters=[pb.AdapterInfo(**asdict(info)) for info in adapters],
    )


def server_info(cluster: ClusterFacts, version: str) -> pb.ServerInfo:
    """The shape that serves."""
    return pb.ServerInfo(
        version=version,
        mode=cluster.mode,
        epoch=cluster.epoch,
        gateways=cluster.gateways,
        shards=cluster.shards,
        uptime_s=cluster.uptime_s,
        transport=cluster.transport,
        micro_batches=cluster.micro_batches,
        max_num_seqs=cluster.max_num_seqs,
        max_batched_tokens=cluster.max_batched_tokens,
        parts=[
            pb.PartInfo(**{name: getattr(part, name) for name in part.__slots__})
            for part in cluster.parts
        ],
    )


def load_message(load: GatewayLoad) -> pb.Load:
    """How busy the gateways are."""
    return pb.Load(
        running=load.running,
        waiting=load.waiting,
        max_waiting=load.max_waiting,
        kv_blocks_used=load.kv_blocks_used,
        kv_blocks=load.kv_blocks,
        preemptions=load.preemptions,
        prefix_hit_tokens=load.prefix_hit_tokens,
        prefix_query_tokens=load.prefix_query_tokens,
    )


def _accepted(event: Accepted) -> pb.Accepted:
    num_tokens = len(event.prompt_token_ids)
    return pb.Accepted(request_id=event.request_id, prompt_tokens=num_tokens, seed=event.seed)


def _finished(event: Finished) -> pb.ChoiceFinished:
    return pb.ChoiceFinished(
        choice=event.choice,
        reason=_REASONS[event.reason],
        stop=event.stop,
        stop_token_id=event.stop_token_id,
        error=event.error,
    )


def _chat_delta(event: ChatDelta) -> pb.ChatDelta:
    match event.piece:
        case ReasoningDelta(text):
            return pb.ChatDelta(choice=event.choice, reasoning=text)
        case ContentDelta(text):
            return pb.ChatDelta(choice=event.choice, content=text)
        case ToolCallStarted(index, call_id, name):
            started = pb.ToolCallStarted(index=index, id=call_id, name=name)
            return pb.ChatDelta(choice=event.choice, tool_call=started)
        case ToolArgumentsDelta(index, text):
            arguments = pb.ToolArguments(index=index, json_delta=text)
            return pb.ChatDelta(choice=event.choice, tool_arguments=arguments)
