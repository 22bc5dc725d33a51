"""Output items of /v1/responses while they grow: each begins, takes deltas, and is done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

StreamEvent: TypeAlias = dict[str, Any]  # without its number


class OpenItem(ABC):
    """The item that grows now; its events carry its place among the answer's items."""

    def __init__(self, item_id: str, place: int) -> None:
        self.id = item_id
        self._where = {"item_id": item_id, "output_index": place}
        self._text = ""

    def begin(self) -> list[StreamEvent]:
        """Events of its begin."""
        added = {**self.item("in_progress", is_new=True)}
        return [self._of_item("added", added), *self._begin_part()]

    def take(self, text: str, logprobs: Sequence[Mapping[str, Any]] = ()) -> StreamEvent:
        """The event of new text."""
        self._text += text
        return self._delta(text, logprobs)

    def end(self, status: str) -> list[StreamEvent]:
        """Events of its end; ``status`` is completed or incomplete."""
        return [*self._end_part(), self._of_item("done", self.item(status))]

    @abstractmethod
    def item(self, status: str, *, is_new: bool = False) -> dict[str, Any]:
        """The item as it is now; a new one has no parts yet."""

    @abstractmethod
    def _delta(self, text: str, logprobs: Sequence[Mapping[str, Any]]) -> StreamEvent: ...

    @abstractmethod
    def _begin_part(self) -> list[StreamEvent]: ...

    @abstractmethod
    def _end_part(self) -> list[StreamEvent]: ...

    def _of_item(self, what: str, item: Mapping[str, Any]) -> StreamEvent:
        place = self._where["output_index"]
        return {"type": f"response.output_item.{what}", "output_index": place, "item": item}

    def _of_part(self, kind: str, **fields: Any) -> StreamEvent:  # noqa: ANN401 - JSON
        return {"type": f"response.{kind}", **self._where, "content_index": 0, **fields}


class MessageItem(OpenItem):
    """Text for the user."""

    def __init__(self, item_id: str, place: int) -> None:
        super().__init__(item_id, place)
        self._logprobs: list[Mapping[str, Any]] = []

    def item(self, status: str, *, is_new: bool = False) -> dict[str, Any]:
        """A ``message`` of the assistant."""
        head = {"type": "message", "id": self.id, "status": status, "role": "assistant"}
        return {**head, "content": [] if is_new else [self._part()]}

    def _part(self) -> dict[str, Any]:
        text = {"type": "output_text", "text": self._text}
        return {**text, "annotations": [], "logprobs": list(self._logprobs)}

    def _delta(self, text: str, logprobs: Sequence[Mapping[str, Any]]) -> StreamEvent:
        self._logprobs += logprobs
        return self._of_part("output_text.delta", delta=text, logprobs=list(logprobs))

    def _begin_part(self) -> list[StreamEvent]:
        return [self._of_part("content_part.added", part=self._part())]

    def _end_part(self) -> list[StreamEvent]:
        logprobs = list(self._logprobs)
        return [
            self._of_part("output_text.done", text=self._text, logprobs=logprobs),
            self._of_part("content_part.done", part=self._part()),
        ]


class ReasoningItem(OpenItem):
    """What the model thinks, in its own words."""

    def item(self, status: str, *, is_new: bool = False) -> dict[str, Any]:
        """A ``reasoning`` item."""
        head = {"type": "reasoning", "id": self.id, "status": status, "summary": []}
        content = [] if is_new else [self._part()]
        return {**head, "content": content, "encrypted_content": None}

    def _part(self) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": self._text}

    def _delta(self, text: str, logprobs: Sequence[Mapping[str, Any]]) -> StreamEvent:
        return self._of_part("reasoning_text.delta", delta=text)

    def _begin_part(self) -> list[StreamEvent]:
        return [self._of_part("content_part.added", part=self._part())]

    def _end_part(self) -> list[StreamEvent]:
        return [
            self._of_part("reasoning_text.done", text=self._text),
            self._of_part("content_part.done", part=self._part()),
        ]


class CallItem(OpenItem):
    """A call of a function."""

    def __init__(self, item_id: str, place: int, call_id: str, name: str) -> None:
        super().__init__(item_id, place)
        self._call_id, self._name = call_id, name

    def item(self, status: str, *, is_new: bool = False) -> dict[str, Any]:
        """A ``function_call``."""
        head = {"type": "function_call", "id": self.id, "status": status, "call_id": self._call_id}
        return {**head, "name": self._name, "arguments": "" if is_new else self._text}

    def _delta(self, text: str, logprobs: Sequence[Mapping[str, Any]]) -> StreamEvent:
        kind = "response.function_call_arguments.delta"
        return {"type": kind, **self._where, "delta": text}

    def _begin_part(self) -> list[StreamEvent]:
        return []

    def _end_part(self) -> list[StreamEvent]:
        kind = "response.function_call_arguments.done"
        done = {"type": kind, **self._where, "name": self._name, "arguments": self._text}
        return [done]
