"""A chat's events as those of /v1/responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from router.api.events import (
    ChatDelta,
    ChatPiece,
    Event,
    Finished,
    TokensDelta,
    ToolCallStarted,
    Usage,
)
from router.api.logprobs_json import chat_logprobs
from router.api.responses_items import (
    CallItem,
    MessageItem,
    OpenItem,
    ReasoningItem,
    StreamEvent,
)
from router.api.responses_json import response_json
from router.api.responses_schema import ResponsesBody
from router.chat.parse import ContentDelta, ReasoningDelta, ToolArgumentsDelta
from router.chat.tokenizer import Tokenizer
from router.engine.request import TokenLogprobs


class ResponseWriter:
    """Follows one chat; the answer at once is what its stream ends with."""

    def __init__(
        self,
        request_id: str,
        model: str,
        body: ResponsesBody,
        tokenizer: Tokenizer,
        unix_time_s: Callable[[], float],
    ) -> None:
        self._request_id = request_id
        self._body = body
        self._tokenizer = tokenizer
        self._unix_time_s = unix_time_s
        created_at = int(unix_time_s())
        self._head = {"id": f"resp_{request_id}", "created_at": created_at, "model": model}
        self._output: list[dict[str, Any]] = []
        self._open: OpenItem | None = None
        self._logprobs: list[TokenLogprobs] = []  # of tokens whose text has not come yet
        self._end: Finished | None = None
        self._usage: Usage | None = None
        self._num_events = 0

    @property
    def end(self) -> Finished | None:
        """How it ended, once it has."""
        return self._end

    def start(self) -> list[StreamEvent]:
        """Events before the first token."""
        kinds = ("response.created", "response.in_progress")
        return self._numbered([{"type": kind, "response": self.response()} for kind in kinds])

    def take(self, event: Event) -> list[StreamEvent]:
        """Events of an event of the chat; the last ones come with its ``Usage``."""
        return self._numbered(self._of(event))

    def response(self) -> dict[str, Any]:
        """The answer as it is now."""
        return response_json(self._head, self._body, self._output, self._end, self._usage)

    def _of(self, event: Event) -> list[StreamEvent]:
        match event:
            case TokensDelta(logprobs=logprobs) if self._body.has_logprobs:
                self._logprobs += logprobs
            case ChatDelta(piece=piece):
                return self._of_piece(piece)
            case Finished():
                self._end = event
                return self._close("incomplete" if self._status != "completed" else "completed")
            case Usage():
                self._usage = event
                self._head["completed_at"] = int(self._unix_time_s())
                return [{"type": self._last_type, "response": self.response()}]
        return []

    @property
    def _status(self) -> str:
        return str(self.response()["status"])

    @property
    def _last_type(self) -> str:
        by_status = {"completed": "response.completed", "failed": "response.failed"}
        return by_status.get(self._status, "response.incomplete")

    def _of_piece(self, piece: ChatPiece) -> list[StreamEvent]:
        pending, self._logprobs = self._logprobs, []
        match piece:
            case ContentDelta(text):
                opened = self._opened(MessageItem, "msg")
                return [*opened, self._growing.take(text, self._shown(pending))]
            case ReasoningDelta(text):
                return [*self._opened(ReasoningItem, "rs"), self._growing.take(text)]
            case ToolCallStarted(_, call_id, name):
                closed = self._close("completed")
                self._open = CallItem(self._next_id("fc"), len(self._output), call_id, name)
                return [*closed, *self._open.begin()]
            case ToolArgumentsDelta(_, text):
                return [self._growing.take(text)]

    def _opened(self, kind: Callable[[str, int], OpenItem], prefix: str) -> list[StreamEvent]:
        """Make an item of that kind the growing one, if it is not."""
        if self._open is not None and type(self._open) is kind:
            return []
        closed = self._close("completed")
        self._open = kind(self._next_id(prefix), len(self._output))
        return [*closed, *self._open.begin()]

    def _close(self, status: str) -> list[StreamEvent]:
        if self._open is None:
            return []
        closed, self._open = self._open, None
        self._output.append(closed.item(status))
        return closed.end(status)

    @property
    def _growing(self) -> OpenItem:
        assert self._open is not None, "a piece has just opened it"
        return self._open

    def _next_id(self, prefix: str) -> str:
        return f"{prefix}_{self._request_id}_{len(self._output)}"

    def _shown(self, pending: list[TokenLogprobs]) -> list[Mapping[str, Any]]:
        shown: list[Mapping[str, Any]] = chat_logprobs(self._tokenizer, pending)["content"]
        return shown

    def _numbered(self, events: list[StreamEvent]) -> list[StreamEvent]:
        """The same, with their place in the stream."""
        first = self._num_events
        self._num_events += len(events)
        return [{"sequence_number": first + i, **event} for i, event in enumerate(events)]
