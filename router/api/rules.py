"""What the answer to a request must obey; refused by field before the request is admitted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from galerne.errors import InvalidRequestError
from router.api.inputs import ChatCompletionInput, GenerateInput
from router.chat.encode import EncodedPrompt
from router.chat.tokenizer import Tokenizer
from router.chat.tool_choice import ToolUse, check_tool_choice
from router.engine.gateway_port import ModelFacts
from router.engine.rules import AnswerRules, GrammarStart
from router.guidance.compiler import GrammarCompiler
from router.guidance.formats import JSON_OBJECT, check_nesting
from router.guidance.grammar import (
    CallsGrammar,
    ToolGrammar,
    begun_call_grammar,
    calls_grammar,
    format_grammar,
    format_or_calls_grammar,
)
from router.guidance.vocabulary import build_vocabulary

MAX_BUDGET = 2**31 - 1  # tokens of reasoning; of the messages to gateways
_NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "additionalProperties": False}


class _Grammar(NamedTuple):
    """A grammar, and what it is made of: fields of the request with a grammar of their own."""

    text: str = ""
    start: GrammarStart = GrammarStart.ANSWER
    parts: Sequence[tuple[str, str]] = ()


class RuleMaker:
    """Makes rules for one model, and compiles their grammars to know that a gateway can."""

    def __init__(self, tokenizer: Tokenizer, model: ModelFacts) -> None:
        self._special = tokenizer.special
        self._compiler = GrammarCompiler(lambda: build_vocabulary(tokenizer, model.vocab_size))

    async def of_generate(self, call: GenerateInput) -> AnswerRules | None:
        """Rules of a continuation; None: it may go on as it likes.

        Raises:
            InvalidRequestError: A format or a limit cannot be kept; names its field.
        """
        grammar = _Grammar()
        if call.output is not None:
            text = format_grammar(call.output)
            grammar = _Grammar(text, parts=[(call.output.field, text)])
        return await self._rules(grammar, call.thinking_token_budget)

    async def of_chat(self, call: ChatCompletionInput, prompt: EncodedPrompt) -> AnswerRules | None:
        """Rules of an answer in a chat, whose prompt has been encoded; None: none.

        Raises:
            InvalidRequestError: As ``of_generate``, or tools cannot be called so.
        """
        tools = list(call.chat.tools or ())
        check_tool_choice(call.tool_choice, tools)
        return await self._rules(
            self._chat_grammar(call, tools),
            call.thinking_token_budget,
            may_think=prompt.may_think,
            is_thinking=prompt.starts_in_reasoning,
            has_tools=bool(tools),
        )

    def _chat_grammar(
        self, call: ChatCompletionInput, tools: Sequence[Mapping[str, Any]]
    ) -> _Grammar:
        """What holds: required calls, else a format (or calls), else the schemas of calls."""
        is_required = call.tool_choice.use is ToolUse.REQUIRED
        if not tools or not (is_required or call.output or _needs_grammar(call, tools)):
            if call.output is None:
                return _Grammar()
            text = format_grammar(call.output)
            return _Grammar(text, parts=[(call.output.field, text)])
        calls = self._calls(call, tools)
        parts = list(_tool_parts(calls))
        if is_required:
            return _Grammar(calls_grammar(calls), parts=parts)
        if call.output is None:
            return _Grammar(begun_call_grammar(calls), GrammarStart.CALL, parts)
        parts.append((call.output.field, format_grammar(call.output)))
        return _Grammar(format_or_calls_grammar(call.output, calls), parts=parts)

    def _calls(self, call: ChatCompletionInput, tools: Sequence[Mapping[str, Any]]) -> CallsGrammar:
        tool_calls, args = self._special.tool_calls, self._special.args
        if tool_calls is None or args is None:
            raise InvalidRequestError("tools", "this model's tokenizer has no tokens for calls")
        only = call.tool_choice.function
        return CallsGrammar(
            tools=[
                _tool_grammar(tool["function"], f"tools[{index}].function.parameters")
                for index, tool in enumerate(tools)
                if only is None or tool["function"]["name"] == only
            ],
            may_repeat=call.parallel_tool_calls and only is None,
            tool_calls_id=tool_calls,
            args_id=args,
        )

    async def _rules(
        self,
        grammar: _Grammar,
        budget: int | None,
        *,
        may_think: bool = False,
        is_thinking: bool = False,
        has_tools: bool = False,
    ) -> AnswerRules | None:
        self._check_budget(budget)
        if not grammar.text and budget is None:
            return None
        if grammar.text and not self._compiler.is_known(grammar.text):
            await self._compiler.run(lambda: self._check_grammar(grammar))
        return AnswerRules(
            grammar=grammar.text,
            start=grammar.start,
            may_think=may_think,
            is_thinking=is_thinking,
            has_tools=has_tools,
            max_thinking_tokens=budget,
        )

    def _check_budget(self, budget: int | None) -> None:
        field = "thinking_token_budget"
        if budget is not None and not 0 <= budget <= MAX_BUDGET:
            raise InvalidRequestError(field, f"must be in [0, {MAX_BUDGET}], got {budget}")
        if budget is not None and self._special.end_think is None:
            raise InvalidRequestError(field, "this model does not reason")

    def _check_grammar(self, grammar: _Grammar) -> None:
        """Compile it; if that fails, find the part that fails alone."""
        try:
            self._compiler.matcher(grammar.text)
        except InvalidRequestError as error:
            for field, text in grammar.parts:
                self._check_part(field, text)
            raise InvalidRequestError(grammar.parts[-1][0], error.problem) from error

    def _check_part(self, field: str, text: str) -> None:
        try:
            self._compiler.matcher(text)
        except InvalidRequestError as error:
            raise InvalidRequestError(field, error.problem) from error


def _needs_grammar(call: ChatCompletionInput, tools: Iterable[Mapping[str, Any]]) -> bool:
    """Whether calls that the model may make must be enforced."""
    return not call.parallel_tool_calls or any(t["function"].get("strict") for t in tools)


def _tool_grammar(function: Mapping[str, Any], field: str) -> ToolGrammar:
    is_strict = bool(function.get("strict"))
    declared = function.get("parameters") or (_NO_ARGUMENTS if is_strict else JSON_OBJECT)
    check_nesting(declared, field)
    return ToolGrammar(
        name=function["name"],
        field=field,
        parameters={"type": "object", **declared},
        is_lenient=not is_strict,
    )


def _tool_parts(calls: CallsGrammar) -> Iterable[tuple[str, str]]:
    for tool in calls.tools:
        alone = CallsGrammar(
            tools=[tool],
            may_repeat=False,
            tool_calls_id=calls.tool_calls_id,
            args_id=calls.args_id,
        )
        yield tool.field, begun_call_grammar(alone)
