"""Tokens of one choice as events: text, stop strings, the end. No effects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

from router.api.events import EndReason, Event, Finished, TokensDelta
from router.chat.detokenize import IncrementalDetokenizer
from router.chat.stop import StopMatcher
from router.chat.tokenizer import Tokenizer
from router.engine.request import FinishReason, SamplingParams, TokenDelta


class Choice(ABC):
    """One of a request's n answers, read token by token.

    Token by token, because a stop string must end at its own token however deltas are cut. Until
    ``min_tokens`` are there, nothing is taken for a stop string.
    """

    def __init__(self, index: int, sampling: SamplingParams) -> None:
        self.index = index
        self.num_tokens = 0
        self.num_reasoning_tokens = 0
        self.is_ended = False
        self._min_tokens = sampling.min_tokens
        self._matcher = StopMatcher(sampling.stop)

    def push(self, delta: TokenDelta) -> list[Event]:
        """Events of new tokens; the last one is ``Finished`` if they end the choice."""
        if self.is_ended:
            return []
        offset = self.num_tokens
        num_read = self._read_all(delta)
        tokens = TokensDelta(
            choice=self.index,
            offset=offset,
            token_ids=tuple(delta.token_ids[:num_read]),
            logprobs=tuple(delta.logprobs[:num_read]),
        )
        if self._matcher.matched is not None:
            end = self._finished(EndReason.STOP, stop=self._matcher.matched)
            return [*self._take(tokens), end]
        if delta.finish_reason is None:
            return self._take(tokens)
        return [*self._take(tokens), self._end_of(delta, delta.finish_reason)]

    def end(self, reason: EndReason, error: str = "", status: str = "INTERNAL") -> list[Event]:
        """Events of an end that no delta has brought."""
        if self.is_ended:
            return []
        self._finish_text()
        rest = self._take(TokensDelta(choice=self.index, offset=self.num_tokens, token_ids=()))
        return [*rest, self._finished(reason, error=error, status=status)]

    def _read_all(self, delta: TokenDelta) -> int:
        """Read tokens up to a stop string; how many."""
        last = len(delta.token_ids) - 1
        for position, token_id in enumerate(delta.token_ids):
            self.num_tokens += 1
            if position < last or token_id != delta.stop_token_id:
                self._read(token_id)
            if self._matcher.matched is not None:
                return position + 1
        if delta.finish_reason is not None:
            self._finish_text()
        return last + 1

    def _end_of(self, delta: TokenDelta, reason: FinishReason) -> Finished:
        if reason is FinishReason.STOP and self._has_called():
            return self._finished(EndReason.TOOL_CALLS, stop_token_id=delta.stop_token_id)
        token, error = delta.stop_token_id, delta.error
        return self._finished(EndReason.of(reason), stop_token_id=token, error=error)

    def _finished(
        self,
        reason: EndReason,
        *,
        stop: str = "",
        stop_token_id: int | None = None,
        error: str = "",
        status: str = "INTERNAL",
    ) -> Finished:
        self.is_ended = True
        return Finished(
            choice=self.index,
            reason=reason,
            stop=stop,
            stop_token_id=stop_token_id,
            error=error,
            error_status=status,
        )

    def _matched_text(self, text: str) -> str:
        """What of ``text`` can no longer be part of a stop string."""
        if self.num_tokens <= self._min_tokens:
            return text
        return self._matcher.push(text).text

    def _has_called(self) -> bool:
        return False

    @abstractmethod
    def _read(self, token_id: int) -> None:
        """Take one token that is not a stop token."""

    @abstractmethod
    def _finish_text(self) -> None:
        """Give up whatever is held back: no token will come."""

    @abstractmethod
    def _take(self, tokens: TokensDelta) -> list[Event]:
        """Events of what was read since the last call, which came with ``tokens``."""


class TextChoice(Choice):
    """A continuation of a prompt: its text is all there is."""

    def __init__(self, index: int, sampling: SamplingParams, tokenizer: Tokenizer) -> None:
        super().__init__(index, sampling)
        self._detokenizer = IncrementalDetokenizer(tokenizer)
        self._text: list[str] = []

    def _read(self, token_id: int) -> None:
        self._text.append(self._matched_text(self._detokenizer.push((token_id,))))

    def _finish_text(self) -> None:
        self._text.append(self._matched_text(self._detokenizer.finish()))
        self._text.append(self._matcher.finish())

    def _take(self, tokens: TokensDelta) -> list[Event]:
        text = "".join(self._text)
        self._text.clear()
        return [replace(tokens, text=text)] if tokens.token_ids or text else []
