"""Tokens of one choice of a chat: reasoning, content and tool calls."""

from __future__ import annotations

from collections.abc import Callable

from router.api.choices import Choice
from router.api.events import ChatDelta, ChatPiece, Event, TokensDelta, ToolCallStarted
from router.chat.call_id import new_call_id
from router.chat.parse import ContentDelta, OutputDelta, OutputParser, ToolCallStart, joined
from router.chat.tokenizer import Tokenizer
from router.engine.request import SamplingParams


class ChatChoice(Choice):
    """An answer, parsed on ids. Stop strings cut its content, never reasoning or arguments.

    No stop string spans a piece of reasoning or a call.
    """

    def __init__(
        self,
        index: int,
        sampling: SamplingParams,
        tokenizer: Tokenizer,
        *,
        has_tools: bool,
        starts_in_reasoning: bool = False,
        call_id: Callable[[int], str] = lambda _index: new_call_id(),
    ) -> None:
        """Without tools, a call has no meaning and its text is content.

        ``call_id`` gives the id of the n-th call.
        """
        super().__init__(index, sampling)
        self._call_id = call_id
        self._parser = OutputParser(
            tokenizer, parse_tools=has_tools, starts_in_reasoning=starts_in_reasoning
        )
        special = tokenizer.special
        self._begin_think = special.begin_think
        self._ends_thinking = {special.end_think, special.eos}
        if has_tools:
            self._ends_thinking.add(special.tool_calls)
        self._is_thinking = starts_in_reasoning
        self._pieces: list[ChatPiece] = []

    def _read(self, token_id: int) -> None:
        if token_id == self._begin_think:
            self._is_thinking = True
        elif self._is_thinking and token_id in self._ends_thinking:
            self._is_thinking = False
        elif self._is_thinking:
            self.num_reasoning_tokens += 1
        self._add(self._parser.push((token_id,)))

    def _finish_text(self) -> None:
        self._add(self._parser.finish())
        self._add_content(self._matcher.finish())

    def _has_called(self) -> bool:
        return self._parser.num_calls > 0

    def _add(self, deltas: list[OutputDelta]) -> None:
        for delta in deltas:
            if self._matcher.matched is not None:
                return
            if isinstance(delta, ContentDelta):
                self._add_content(self._matched_text(delta.text))
                continue
            self._add_content(self._matcher.finish())
            if isinstance(delta, ToolCallStart):
                self._pieces.append(
                    ToolCallStarted(delta.index, self._call_id(delta.index), delta.name)
                )
            else:
                self._pieces.append(delta)

    def _add_content(self, text: str) -> None:
        if text:
            self._pieces.append(ContentDelta(text))

    def _take(self, tokens: TokensDelta) -> list[Event]:
        pieces, self._pieces = self._pieces, []
        events: list[Event] = [
            ChatDelta(choice=self.index, piece=piece) for piece in joined(pieces)
        ]
        return [tokens, *events] if tokens.token_ids else events
