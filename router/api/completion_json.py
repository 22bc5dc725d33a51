"""Answers of /v1/completions: m prompts with n choices each are m x n choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from router.api.chat_json import end_json, usage_json
from router.api.collect import Collected, CollectedChoice
from router.api.events import EndReason, Finished, TokensDelta, Usage
from router.api.logprobs_json import CompletionLogprobs, prompt_logprobs
from router.api.merge import Numbered
from router.api.schemas import CompletionBody
from router.chat.tokenizer import Tokenizer


def prompt_text(prompt: str | Sequence[int], tokenizer: Tokenizer) -> str:
    """What ``echo`` puts in front."""
    return prompt if isinstance(prompt, str) else tokenizer.decode(prompt)


def completion(
    head: Mapping[str, Any],
    answers: Sequence[Collected],
    body: CompletionBody,
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """A whole answer; ``answers`` by prompt."""
    choices: list[dict[str, Any]] = []
    usage = Usage()
    for prompt, answer in zip(body.prompts(), answers, strict=True):
        usage += answer.usage
        echo = prompt_text(prompt, tokenizer) if body.echo else ""
        for choice in answer.choices:
            shaped = _choice(choice, answer, echo, body, tokenizer)
            choices.append({"index": len(choices), **shaped})
    return {
        **head,
        "object": "text_completion",
        "choices": choices,
        "usage": _shown_usage(usage, body),
    }


def _choice(
    choice: CollectedChoice,
    answer: Collected,
    echo: str,
    body: CompletionBody,
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    if body.echoes_only:  # the one token that the engine had to make is not shown
        choice = CollectedChoice(end=Finished(choice=0, reason=EndReason.LENGTH))
    shaped: dict[str, Any] = {
        "text": echo + choice.text,
        "logprobs": _logprobs(choice, answer, body, tokenizer),
        **end_json(choice.end, tokenizer.eos_id),
    }
    if body.prompt_logprobs is not None:
        shaped["prompt_logprobs"] = prompt_logprobs(tokenizer, answer.prompt_logprobs)
    return shaped


def _logprobs(
    choice: CollectedChoice, answer: Collected, body: CompletionBody, tokenizer: Tokenizer
) -> dict[str, Any] | None:
    if body.logprobs is None:
        return None
    writer = CompletionLogprobs(tokenizer, has_top=body.logprobs > 0)
    if not body.echo:
        return writer.add(choice.token_ids, choice.logprobs)
    token_ids = [*answer.accepted.prompt_token_ids, *choice.token_ids]
    return writer.add(token_ids, [None, *answer.prompt_logprobs, *choice.logprobs])


class CompletionChunks:
    """Turns the events of all prompts into the chunks of a stream."""

    def __init__(self, head: Mapping[str, Any], body: CompletionBody, tokenizer: Tokenizer) -> None:
        self._head = {**head, "object": "text_completion"}
        if body.includes_usage:
            self._head["usage"] = None
        self._body = body
        self._num_choices = body.n or 1
        self._usage = Usage()
        self._logprobs: dict[int, CompletionLogprobs] = {}
        self._tokenizer = tokenizer

    def start(self) -> list[dict[str, Any]]:
        """The echoed prompts, if asked for."""
        if not self._body.echo:
            return []
        texts = [prompt_text(prompt, self._tokenizer) for prompt in self._body.prompts()]
        indexed = enumerate(text for text in texts for _ in range(self._num_choices))
        return [self._chunk(index, text) for index, text in indexed]

    def take(self, numbered: Numbered) -> list[dict[str, Any]]:
        """Chunks of one event; an end with an error gives none."""
        first_index = numbered.stream * self._num_choices
        match numbered.event:
            case TokensDelta() as tokens if not self._body.echoes_only:
                return self._take_tokens(first_index + tokens.choice, tokens)
            case Finished(reason=reason) as end if reason is not EndReason.ERROR:
                if self._body.echoes_only:
                    end = Finished(choice=end.choice, reason=EndReason.LENGTH)
                shown = end_json(end, self._tokenizer.eos_id)
                return [self._chunk(first_index + end.choice, "", end=shown)]
            case Usage() as usage:
                self._usage += usage
        return []

    def finish(self) -> list[dict[str, Any]]:
        """The usage, if asked for."""
        if not self._body.includes_usage:
            return []
        return [{**self._head, "choices": [], "usage": _shown_usage(self._usage, self._body)}]

    def _take_tokens(self, index: int, tokens: TokensDelta) -> list[dict[str, Any]]:
        logprobs = None
        if self._body.logprobs is not None:
            has_top = self._body.logprobs > 0
            new = CompletionLogprobs(self._tokenizer, has_top=has_top)
            writer = self._logprobs.setdefault(index, new)
            logprobs = writer.add(tokens.token_ids, tokens.logprobs)
        if not tokens.text and logprobs is None:
            return []
        return [self._chunk(index, tokens.text, logprobs)]

    def _chunk(
        self,
        index: int,
        text: str,
        logprobs: Mapping[str, Any] | None = None,
        end: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        choice = {"index": index, "text": text, "logprobs": logprobs}
        return {**self._head, "choices": [{**choice, **(end or {"finish_reason": None})}]}


def _shown_usage(usage: Usage, body: CompletionBody) -> dict[str, Any]:
    """Without the token that scoring a prompt makes and nobody sees."""
    return usage_json(replace(usage, completion_tokens=0) if body.echoes_only else usage)
