"""Resumable streams as HTTP shows them: chunks of a chat or a continuation, numbered."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

from galerne.errors import GalerneError
from router.api.chat_json import ChatChunks
from router.api.completion_json import CompletionChunks
from router.api.events import Event, TokensDelta
from router.api.http_errors import error_body
from router.api.http_streams import failure_of
from router.api.merge import Numbered
from router.api.resume import ResumeFilter
from router.api.schemas import ChatCompletionBody, CompletionBody
from router.api.sse import DONE, encode_event
from router.chat.tokenizer import Tokenizer

_SHOWN_OF_A_COMPLETION = {"prompt", "echo", "logprobs", "max_tokens", "n", "stream_options"}


def chat_page(body: ChatCompletionBody, created: int) -> dict[str, Any]:
    """What must be kept of a chat's body to show its answer: ``Resumable.page``."""
    return {
        "created": created,
        "model": body.model,
        "has_logprobs": bool(body.logprobs),
        "includes_usage": body.includes_usage,
    }


def completion_page(body: CompletionBody, created: int) -> dict[str, Any]:
    """The same for a continuation of one prompt."""
    shown = body.model_dump(include=_SHOWN_OF_A_COMPLETION)
    if not body.echo:
        shown["prompt"] = ""  # it would be kept for nothing
    return {"created": created, "model": body.model, "body": shown}


class Page(Protocol):
    """Makes the chunks of one stream from its events."""

    def start(self) -> list[dict[str, Any]]:
        """Before the first event."""
        ...

    def take(self, event: Event) -> list[dict[str, Any]]:
        """For an event; none for an end with an error."""
        ...

    def finish(self) -> list[dict[str, Any]]:
        """After the last event."""
        ...


class ChatPage:
    """A chat."""

    def __init__(
        self,
        head: Mapping[str, Any],
        page: Mapping[str, Any],
        num_choices: int,
        tokenizer: Tokenizer,
    ) -> None:
        """``page``: of ``chat_page``."""
        self._num_choices = num_choices
        self._chunks = ChatChunks(
            head,
            tokenizer,
            has_logprobs=page["has_logprobs"],
            includes_usage=page["includes_usage"],
        )

    def start(self) -> list[dict[str, Any]]:
        """The roles."""
        return self._chunks.start(self._num_choices)

    def take(self, event: Event) -> list[dict[str, Any]]:
        """See ``Page``."""
        return self._chunks.take(event)

    def finish(self) -> list[dict[str, Any]]:
        """Nothing: the usage was an event."""
        return []


class CompletionPage:
    """A continuation of one prompt."""

    def __init__(
        self, head: Mapping[str, Any], page: Mapping[str, Any], tokenizer: Tokenizer
    ) -> None:
        """``page``: of ``completion_page``."""
        self._chunks = CompletionChunks(head, CompletionBody(**page["body"]), tokenizer)

    def start(self) -> list[dict[str, Any]]:
        """The echo."""
        return self._chunks.start()

    def take(self, event: Event) -> list[dict[str, Any]]:
        """See ``Page``."""
        return self._chunks.take(Numbered(0, event))

    def finish(self) -> list[dict[str, Any]]:
        """The usage."""
        return self._chunks.finish()


async def numbered_stream(
    events: AsyncGenerator[Event, None], page: Page, new: ResumeFilter
) -> AsyncGenerator[bytes, None]:
    """Server-sent events of an accepted stream that are ``new``, each with its ``id:``.

    ``events`` are all of the stream: a chunk may hold what came with tokens before it.
    """
    for chunk in page.start():
        if _is_new(chunk, new):
            yield encode_event(chunk, new.event_id)
    try:
        async for event in events:
            failure = failure_of(event)
            if failure is not None:
                yield encode_event(failure)
                break
            if isinstance(event, TokensDelta):
                new.see_tokens(event)
            for chunk in page.take(event):
                if _is_new(chunk, new):
                    yield encode_event(chunk, new.event_id)
        else:
            for chunk in page.finish():
                yield encode_event(chunk, new.event_id)
    except GalerneError as error:  # a newer client has the stream, or the frontend stops
        yield encode_event(error_body(error))
    yield DONE


def _is_new(chunk: Mapping[str, Any], new: ResumeFilter) -> bool:
    if not chunk["choices"]:
        return True  # the usage
    [choice] = chunk["choices"]
    return new.wants_part(choice["index"], is_end=choice["finish_reason"] is not None)
