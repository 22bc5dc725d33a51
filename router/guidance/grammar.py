"""Formats and tool calls as one grammar: Lark, with the extensions of llguidance. Pure.

A call is ``[TOOL_CALLS] name [ARGS] json``, repeated per call (model reference, section 5); the
special tokens are meant by their ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import llguidance

from galerne.errors import InvalidRequestError
from router.chat.refusals import refused_as
from router.guidance.formats import JSON_OBJECT, FormatKind, OutputFormat, check_length

_DELETE, _ESCAPED = "\x7f", r"\u007f"
_DELETE_IN_REGEX = re.compile(rf"(\\*){_DELETE}")

# White space between the parts of JSON. The models write a space, or a line and its indentation;
# without a bound one that is lost in white space would not find back.
_WHITE_SPACE = r"( |\n[ \t]{0,64})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolGrammar:
    """The calls of one tool."""

    name: str
    field: str  # of the request, for refusals
    parameters: Mapping[str, Any]  # JSON schema of the arguments
    is_lenient: bool = True  # parts of the schema that cannot be enforced are ignored


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsGrammar:
    """Tool calls as an answer."""

    tools: Sequence[ToolGrammar]  # at least one
    may_repeat: bool  # more than one call
    tool_calls_id: int
    args_id: int


def format_grammar(output: OutputFormat) -> str:
    """An answer of a format.

    Raises:
        InvalidRequestError: It cannot be written down, or is too long.
    """
    if output.kind is FormatKind.GRAMMAR:
        return _lark(output)
    return f"start: {_body(output)}\n"


def calls_grammar(calls: CallsGrammar) -> str:
    """An answer of one or more calls.

    Raises:
        InvalidRequestError: As ``format_grammar``.
    """
    start = "start: call+" if calls.may_repeat else "start: call"
    return "\n".join((start, *_call_rules(calls)))


def begun_call_grammar(calls: CallsGrammar) -> str:
    """What follows the [TOOL_CALLS] that the model has just written: a call, perhaps others.

    Raises:
        InvalidRequestError: As ``format_grammar``.
    """
    start = "start: tool call*" if calls.may_repeat else "start: tool"
    return "\n".join((start, *_call_rules(calls)))


def format_or_calls_grammar(output: OutputFormat, calls: CallsGrammar) -> str:
    """An answer of a format, or calls.

    Raises:
        InvalidRequestError: As ``format_grammar``, or the format is a grammar of its own.
    """
    if output.kind is FormatKind.GRAMMAR:
        problem = "does not go with tools, unless tool_choice is none or required"
        raise InvalidRequestError(output.field, problem)
    start = "start: answer | call+" if calls.may_repeat else "start: answer | call"
    return "\n".join((start, f"answer: {_body(output)}", *_call_rules(calls)))


def _call_rules(calls: CallsGrammar) -> Iterable[str]:
    yield f"call: <[{calls.tool_calls_id}]> tool"
    yield "tool: " + " | ".join(f"tool_{i}" for i in range(len(calls.tools)))
    for index, tool in enumerate(calls.tools):
        arguments = _json(tool.parameters, tool.field, is_lenient=tool.is_lenient)
        yield f"tool_{index}: {json.dumps(tool.name)} <[{calls.args_id}]> {arguments}"


def _body(output: OutputFormat) -> str:
    match output.kind:
        case FormatKind.JSON:
            schema = JSON_OBJECT if output.schema is None else output.schema
            return _json(schema, output.field, is_lenient=output.is_lenient)
        case FormatKind.REGEX:
            return _regex(output)
        case _:
            body = " | ".join(_quoted(choice) for choice in output.choices)
            check_length(body, output.field)
            return body


def _json(schema: Mapping[str, Any], field: str, *, is_lenient: bool) -> str:
    options = {"whitespace_pattern": _WHITE_SPACE, "lenient": is_lenient}
    try:
        text = _quoted({**schema, "x-guidance": options})
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(field, f"is no JSON: {error}") from error
    check_length(text, field)
    return f"%json {text}"


def _regex(output: OutputFormat) -> str:
    backslashes = len(output.text) - len(output.text.rstrip("\\"))
    if backslashes % 2:  # it would be dropped, or take the end of the expression away
        raise InvalidRequestError(output.field, "ends in a backslash that escapes nothing")
    # A backslash of its own before DELETE changes nothing.
    text = _DELETE_IN_REGEX.sub(lambda m: m[1][: len(m[1]) // 2 * 2] + _ESCAPED, output.text)
    return f"/{llguidance.regex_to_lark(text)}/"


def _quoted(value: object) -> str:
    """JSON as Lark takes it. DELETE, which it does not take, can only be within strings."""
    return json.dumps(value, ensure_ascii=False).replace(_DELETE, _ESCAPED)


def _lark(output: OutputFormat) -> str:
    """A client's grammar; those of llama.cpp, which define by ``::=``, are translated."""
    if "::=" not in output.text:
        return output.text
    with refused_as(output.field):
        return str(llguidance.grammar_from("grammar", output.text))
