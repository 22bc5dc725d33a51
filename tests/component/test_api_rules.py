"""What a chat asks for, as the rules that reach the gateway."""

import pytest

from galerne.errors import InvalidRequestError
from helpers.api_servers import ids_of, make_frontend
from helpers.fake_gateway import Answer, FakeGateway
from router.api.inputs import ChatCompletionInput, GenerateInput
from router.api.output_format import read_output_format
from router.chat.encode import ChatInput
from router.chat.tool_choice import ToolChoice, ToolUse, read_tool_choice
from router.engine.rules import GrammarStart

JSON = read_output_format({"response_format": {"type": "json_object"}})
REQUIRED = ToolChoice(use=ToolUse.REQUIRED)
ONLY_G = ToolChoice(use=ToolUse.REQUIRED, function="g")


def tool(name="f", **function):
    return {"type": "function", "function": {"name": name, **function}}


async def rules_of(*, tools=None, effort=None, messages=None, prefix=False, default=None, **call):
    gateway = FakeGateway(Answer(ids_of("ok")))
    messages = messages or [{"role": "user", "content": "Hello"}]
    chat = ChatInput(
        messages=messages, tools=tools, reasoning_effort=effort, continue_final_message=prefix
    )
    frontend = make_frontend(gateway, reasoning_effort=default)
    async for _ in frontend.chat(ChatCompletionInput(chat=chat, **call)):
        pass
    return gateway.runs[0].request.rules


@pytest.mark.parametrize(
    "call",
    [
        {},
        {"tools": [tool()]},
        {"tools": [tool(strict=False)], "effort": "high"},
        {"parallel_tool_calls": False},
    ],
)
async def test_free_answer_has_no_rules(call):
    assert await rules_of(**call) is None


@pytest.mark.parametrize(
    ("call", "start", "parts", "absent"),
    [
        ({"output": JSON}, GrammarStart.ANSWER, ["%json"], ["<[9]>"]),
        ({"tools": [tool(), tool("g")], "tool_choice": REQUIRED}, GrammarStart.ANSWER,
         ["start: call+", '"f" <[32]>', '"g" <[32]>'], []),
        ({"tools": [tool(), tool("g")], "tool_choice": REQUIRED, "parallel_tool_calls": False},
         GrammarStart.ANSWER, ["start: call\n"], ["call+"]),
        ({"tools": [tool(), tool("g")], "tool_choice": ONLY_G}, GrammarStart.ANSWER,
         ["start: call\n", '"g" <[32]>'], ['"f"']),
        ({"tools": [tool(strict=True), tool("g")]}, GrammarStart.CALL,
         ["start: tool call*", '"lenient": false', '"lenient": true'], []),
        ({"tools": [tool()], "parallel_tool_calls": False}, GrammarStart.CALL,
         ["start: tool\n"], ["call*"]),
        ({"tools": [tool()], "output": JSON}, GrammarStart.ANSWER, ["start: answer | call+"], []),
        ({"tools": [tool()], "output": JSON, "tool_choice": REQUIRED}, GrammarStart.ANSWER,
         ["start: call+"], ["answer"]),
    ],
)  # fmt: skip
async def test_grammar_says_what_is_asked_for_and_where_it_begins(call, start, parts, absent):
    rules = await rules_of(**call)
    assert rules.start is start
    assert all(part in rules.grammar for part in parts)
    assert not any(part in rules.grammar for part in absent)
    assert rules.has_tools is ("tools" in call)


@pytest.mark.parametrize(
    ("effort", "default", "may_think"),
    [(None, None, False), ("high", None, True), (None, "high", True), ("none", "high", False)],
)
async def test_effort_decides_whether_the_answer_may_begin_with_reasoning(
    effort, default, may_think
):
    rules = await rules_of(output=JSON, effort=effort, default=default)
    assert rules.may_think is may_think
    assert not rules.is_thinking


@pytest.mark.parametrize("is_closed", [False, True])
async def test_continued_message_goes_on_where_it_stands(is_closed):
    part = {"type": "thinking", "thinking": "Hm", "closed": is_closed}
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": [part]}]
    rules = await rules_of(output=JSON, effort="high", messages=messages, prefix=True)
    assert rules.is_thinking is not is_closed
    assert not rules.may_think


async def test_budget_alone_is_a_rule_and_needs_no_grammar():
    rules = await rules_of(thinking_token_budget=0, effort="high")
    assert (rules.max_thinking_tokens, rules.grammar) == (0, "")


async def test_continuation_takes_a_format_too():
    gateway = FakeGateway(Answer(ids_of("ok")))
    call = GenerateInput(prompt="Once", output=JSON, thinking_token_budget=4)
    async for _ in make_frontend(gateway).generate(call):
        pass
    rules = gateway.runs[0].request.rules
    assert rules.grammar.startswith("start: %json")
    assert (rules.may_think, rules.max_thinking_tokens) == (False, 4)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        ({"tool_choice": REQUIRED}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": ONLY_G}, "tool_choice"),
        ({"tools": [tool(), tool("g", strict=True, parameters={"type": "object", "not": {}})]},
         "tools[1].function.parameters"),
        ({"output": read_output_format({"guided_grammar": 'start: "a"'}), "tools": [tool()]},
         "guided_grammar"),
        ({"output": read_output_format({"guided_grammar": "start: b"})}, "guided_grammar"),
        ({"thinking_token_budget": -1}, "thinking_token_budget"),
    ],
)  # fmt: skip
async def test_what_cannot_be_kept_is_refused_by_field(call, field):
    with pytest.raises(InvalidRequestError) as caught:
        await rules_of(**call)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("value", "choice"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice(use=ToolUse.NONE)),
        ("any", REQUIRED),
        ({"type": "function", "function": {"name": "f"}},
         ToolChoice(use=ToolUse.REQUIRED, function="f")),
        ({"type": "function", "name": "f"}, ToolChoice(use=ToolUse.REQUIRED, function="f")),
    ],
)  # fmt: skip
def test_tool_choice_is_read_in_the_shapes_of_clients(value, choice):
    assert read_tool_choice(value) == choice


@pytest.mark.parametrize("value", ["maybe", 5, {}, {"type": "function"}, {"type": "custom"}])
def test_other_tool_choices_are_refused(value):
    with pytest.raises(InvalidRequestError) as caught:
        read_tool_choice(value)
    assert caught.value.field == "tool_choice"
