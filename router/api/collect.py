"""A whole answer out of its events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

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
from router.engine.request import TokenLogprobs


@dataclass(slots=True)
class CollectedCall:
    """A tool call; ``arguments`` is what the model wrote, perhaps no JSON."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class CollectedChoice:
    """One answer: ``text`` of a continuation, or the parts of a chat's."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    text: str = ""
    reasoning: str = ""
    content: str = ""
    calls: list[CollectedCall] = field(default_factory=list)
    end: Finished = field(default_factory=lambda: Finished(choice=0, reason=EndReason.ERROR))


@dataclass(slots=True)
class Collected:
    """The answer to one request; ``choices`` by index."""

    accepted: Accepted
    choices: list[CollectedChoice] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()
    usage: Usage = field(default_factory=Usage)

    def error(self) -> Finished | None:
        """The first end with an error, if there is one."""
        ends = (choice.end for choice in self.choices)
        return next((end for end in ends if end.reason is EndReason.ERROR), None)


async def collect(events: AsyncIterator[Event], num_choices: int) -> Collected:
    """Fold a stream of ``Frontend`` into its answer.

    Raises:
        GalerneError: Whatever the stream raises before it is accepted.
    """
    first = await anext(events)
    if not isinstance(first, Accepted):
        raise TypeError(f"a stream begins with Accepted, not {type(first).__name__}")
    collected = Collected(first, [CollectedChoice() for _ in range(num_choices)])
    async for event in events:
        add_event(collected, event)
    return collected


def add_event(collected: Collected, event: Event) -> None:
    """Take one more event of the stream."""
    match event:
        case TokensDelta():
            choice = collected.choices[event.choice]
            choice.token_ids.extend(event.token_ids)
            choice.logprobs.extend(event.logprobs)
            choice.text += event.text
        case ChatDelta():
            _add_piece(collected.choices[event.choice], event)
        case PromptLogprobs():
            collected.prompt_logprobs = event.positions
        case Finished():
            collected.choices[event.choice].end = event
        case Usage():
            collected.usage = event


def _add_piece(choice: CollectedChoice, delta: ChatDelta) -> None:
    match delta.piece:
        case ReasoningDelta(text):
            choice.reasoning += text
        case ContentDelta(text):
            choice.content += text
        case ToolCallStarted(_, call_id, name):
            choice.calls.append(CollectedCall(call_id, name))
        case ToolArgumentsDelta(index, text):
            choice.calls[index].arguments += text
