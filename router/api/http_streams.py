"""Streams of events as HTTP sends them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from router.api.chat_json import ChatChunks
from router.api.collect import Collected, CollectedChoice, add_event, collect
from router.api.completion_json import CompletionChunks
from router.api.errors import EndedWithError
from router.api.events import Accepted, EndReason, Event, Finished
from router.api.http_errors import error_body
from router.api.merge import Numbered
from router.api.sse import DONE, encode_event


async def collect_closing(events: AsyncGenerator[Event, None], num_choices: int) -> Collected:
    """A whole chat.

    Raises:
        GalerneError: The request is refused, or ended with an error.
    """
    async with aclosing(events):
        return _checked(await collect(events, num_choices))


async def collect_all(
    merged: AsyncGenerator[Numbered, None], num_streams: int, num_choices: int
) -> list[Collected]:
    """Whole continuations of several prompts, by prompt.

    Raises:
        GalerneError: A request is refused, or ended with an error.
    """
    answers: dict[int, Collected] = {}
    async with aclosing(merged):
        async for number, event in merged:
            if isinstance(event, Accepted):
                answers[number] = Collected(event, [CollectedChoice() for _ in range(num_choices)])
            else:
                add_event(answers[number], event)
    return [_checked(answers[number]) for number in range(num_streams)]


def _checked(collected: Collected) -> Collected:
    failed = collected.error()
    if failed is not None:
        raise EndedWithError(failed.error_status, failed.error)
    return collected


async def until_accepted(
    merged: AsyncGenerator[Numbered, None], num_streams: int
) -> list[Numbered]:
    """Events until every stream has been accepted, so that a refusal can still be a status."""
    begun = []
    num_accepted = 0
    while num_accepted < num_streams:
        begun.append(await anext(merged))
        num_accepted += isinstance(begun[-1].event, Accepted)
    return begun


async def chat_stream(
    events: AsyncGenerator[Event, None], chunks: ChatChunks, num_choices: int
) -> AsyncGenerator[bytes, None]:
    """Server-sent events of a chat that has been accepted."""
    for chunk in chunks.start(num_choices):
        yield encode_event(chunk)
    async for event in events:
        failure = failure_of(event)
        if failure is not None:
            yield encode_event(failure)
            break
        for chunk in chunks.take(event):
            yield encode_event(chunk)
    yield DONE


async def completion_stream(
    begun: Sequence[Numbered], merged: AsyncGenerator[Numbered, None], chunks: CompletionChunks
) -> AsyncGenerator[bytes, None]:
    """Server-sent events of continuations; ``begun`` are the events already taken."""
    for chunk in chunks.start():
        yield encode_event(chunk)
    async for numbered in _chained(begun, merged):
        failure = failure_of(numbered.event)
        if failure is not None:
            yield encode_event(failure)
            break
        for chunk in chunks.take(numbered):
            yield encode_event(chunk)
    else:
        for chunk in chunks.finish():
            yield encode_event(chunk)
    yield DONE


async def _chained(
    begun: Sequence[Numbered], merged: AsyncGenerator[Numbered, None]
) -> AsyncGenerator[Numbered, None]:
    for numbered in begun:
        yield numbered
    async for numbered in merged:
        yield numbered


def failure_of(event: Event) -> Mapping[str, Any] | None:
    """The error event for an end with an error; None for every other event."""
    if not isinstance(event, Finished) or event.reason is not EndReason.ERROR:
        return None
    return error_body(EndedWithError(event.error_status, event.error))
