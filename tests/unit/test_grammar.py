"""Formats and calls as grammars over the embedded tokenizer: what they let through."""

import json
import random
import re

import pytest
from jsonschema import Draft202012Validator

from galerne.errors import InvalidRequestError
from helpers.guided import (
    ARGS,
    CALLS,
    EOS,
    babble,
    compiler,
    embedded,
    follows,
    guide_of,
    text_follows,
    text_of,
)
from helpers.schemas import random_schema
from router.api.output_format import read_output_format
from router.engine.rules import GrammarStart
from router.guidance import compiler as compiler_module
from router.guidance.compiler import GrammarCompiler
from router.guidance.formats import FormatKind, text_format
from router.guidance.grammar import (
    CallsGrammar,
    ToolGrammar,
    begun_call_grammar,
    calls_grammar,
    format_grammar,
    format_or_calls_grammar,
)

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}},
    "required": ["city"],
    "additionalProperties": False,
}


def format_of(**fields):
    return read_output_format(fields)


def grammar_of(**fields):
    return format_grammar(format_of(**fields))


def schema_grammar(schema, *, strict=True):
    json_schema = {"name": "answer", "schema": schema, "strict": strict}
    return grammar_of(response_format={"type": "json_schema", "json_schema": json_schema})


def calls(*names, may_repeat=True, schema=CITY):
    tools = [ToolGrammar(name=name, field=name, parameters=schema) for name in names]
    return CallsGrammar(tools=tools, may_repeat=may_repeat, tool_calls_id=CALLS, args_id=ARGS)


def ids_of(*parts):
    texts = (p if isinstance(p, int) else embedded().encode_text(p, add_bos=False) for p in parts)
    return [i for ids in texts for i in ([ids] if isinstance(ids, int) else ids)]


def test_random_model_at_high_temperature_fills_200_random_schemas():
    for seed in range(200):
        schema = random_schema(random.Random(seed))
        said = babble(guide_of(schema_grammar(schema)), seed)
        assert said[-1] == EOS, f"schema {seed} did not come to its end: {schema}"
        value = json.loads(text_of(said))
        format_checker = Draft202012Validator.FORMAT_CHECKER
        Draft202012Validator(schema, format_checker=format_checker).validate(value)


def test_json_object_is_any_object_and_nothing_else():
    grammar = grammar_of(response_format={"type": "json_object"})
    assert text_follows(grammar, '{"a": [1, {"b": null}], "c": "Ça"}')
    assert text_follows(grammar, '{\n    "a": 1,\n    "b": 2\n}')
    for wrong in ("[1]", '"a"', '{"a": 1', "Sure: {}", '{"a":      1}'):
        assert not text_follows(grammar, wrong)


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"\d{3}-\d{4}", "555-1234", "555-12345"),
        (r"^[a-c]+$", "abc", "abcd"),
        (r"a/b\/c", "a/b/c", "a/b"),
        (r"[/\\]x\$", "/x$", "/x"),
        (r"a\\/b", r"a\/b", "a/b"),
        ("one\ntwo", "one\ntwo", "one two"),
        ("é+|ü", "éé", "e"),
    ],
)
def test_regular_expression_is_about_the_whole_answer(pattern, good, bad):
    grammar = grammar_of(guided_regex=pattern)
    assert re.fullmatch(pattern, good)
    assert not re.fullmatch(pattern, bad)
    assert text_follows(grammar, good)
    assert not text_follows(grammar, bad)


def test_choice_is_one_of_the_strings_as_they_are():
    choices = ["yes", "no", 'say "no"\n', "Ça\\va", "[TOOL_CALLS]"]
    grammar = grammar_of(structured_outputs={"choice": choices})
    assert all(text_follows(grammar, choice) for choice in choices)
    assert not any(text_follows(grammar, wrong) for wrong in ("y", "yesno", "maybe"))
    assert not follows(grammar, [CALLS]), "the name of a special token is text like any other"


@pytest.mark.parametrize("character", ["\x00", "\t", "\x1b", "\x7f", "\x85", "\u2028", "\ufeff"])
def test_characters_that_are_not_seen_are_like_any_other(character):
    text = f"a{character}b"
    assert text_follows(grammar_of(guided_choice=[text, "c"]), text)
    for regex in (text, f"a[{character}]b"):
        assert text_follows(grammar_of(guided_regex=regex), text)
    quoted = [json.dumps(text, ensure_ascii=is_ascii) for is_ascii in (False, True)]
    in_enum = schema_grammar({"enum": [text]})
    assert any(text_follows(in_enum, string) for string in quoted)
    schema = {"type": "object", "properties": {text: {"const": 1}}, "required": [text]}
    as_name = schema_grammar(schema)
    assert any(text_follows(as_name, f"{{{string}: 1}}") for string in quoted)


def test_grammar_is_taken_as_written():
    grammar = grammar_of(guided_grammar='start: "SELECT " column\ncolumn: /[a-z_]+/')
    assert text_follows(grammar, "SELECT user_name")
    assert not text_follows(grammar, "DROP user_name")


def test_grammar_of_llama_cpp_is_translated():
    grammar = grammar_of(guided_grammar='root ::= "yes" | "no" [!]?')
    assert all(text_follows(grammar, answer) for answer in ("yes", "no", "no!"))
    assert not text_follows(grammar, "yes!")


def test_lenient_schema_ignores_what_cannot_be_enforced_and_a_strict_one_is_refused():
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    assert text_follows(schema_grammar(schema, strict=False), "[1, 1]")
    with pytest.raises(InvalidRequestError, match="uniqueItems"):
        compiler().matcher(schema_grammar(schema))


def test_required_call_is_a_call_of_one_of_the_tools():
    grammar = calls_grammar(calls("f", "g-2"))
    one = (CALLS, "g-2", ARGS, '{"city": "Rome"}')
    assert follows(grammar, ids_of(*one))
    assert follows(grammar, ids_of(*one, CALLS, "f", ARGS, '{"city": ""}'))
    for wrong in (
        ["Rome"],
        [],
        ["Wait.", *one],
        [*one, "Done."],
        [CALLS, "h", ARGS, '{"city": "Rome"}'],
        [CALLS, "f", ARGS, "{}"],
        [CALLS, "f", '{"city": "Rome"}'],
        ["[TOOL_CALLS]", "f", ARGS, '{"city": "Rome"}'],
    ):
        assert not follows(grammar, ids_of(*wrong))


def test_single_call_is_followed_by_nothing():
    one = ids_of(CALLS, "f", ARGS, '{"city": ""}')
    grammar = calls_grammar(calls("f", may_repeat=False))
    assert follows(grammar, one)
    assert not follows(grammar, one + one)
    begun = begun_call_grammar(calls("f", may_repeat=False))
    assert follows(begun, one[1:])
    assert not follows(begun, one[1:] + one)
    assert follows(begun_call_grammar(calls("f")), one[1:] + one)


def test_format_beside_tools_is_the_format_or_calls():
    grammar = format_or_calls_grammar(format_of(guided_choice=["yes", "no"]), calls("f"))
    assert text_follows(grammar, "yes")
    assert follows(grammar, ids_of(CALLS, "f", ARGS, '{"city": ""}'))
    assert not follows(grammar, ids_of("yes", CALLS, "f", ARGS, '{"city": ""}'))


def test_grammar_of_its_own_does_not_go_with_calls():
    with pytest.raises(InvalidRequestError) as caught:
        format_or_calls_grammar(format_of(guided_grammar='start: "a"'), calls("f"))
    assert caught.value.field == "guided_grammar"


@pytest.mark.parametrize("seed", range(5))
def test_random_model_that_begins_a_call_ends_it_well(seed):
    tools = [
        ToolGrammar(name=f"tool_{i}", field="t", parameters=random_schema(random.Random(seed + i)))
        for i in range(3)
    ]
    grammar = begun_call_grammar(
        CallsGrammar(tools=tools, may_repeat=False, tool_calls_id=CALLS, args_id=ARGS)
    )
    guide = guide_of(grammar, start=GrammarStart.CALL, has_tools=True)
    for token_id in ids_of("Let me see.", CALLS):
        assert guide.allowed() is None
        guide.advance(token_id)
    said = babble(guide, seed)
    name, arguments = text_of(said[: said.index(ARGS)]), text_of(said[said.index(ARGS) :])
    [tool] = [tool for tool in tools if tool.name == name]
    Draft202012Validator(tool.parameters).validate(json.loads(arguments))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"strict": 1}}},
            "response_format.json_schema.strict",
        ),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"json_object": 1}}, "structured_outputs.json_object"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[" * 10**5}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": "yes"}, "guided_choice"),
        ({"guided_choice": ["a", ""]}, "guided_choice[1]"),
        ({"guided_regex": "(" * 1000 + ")" * 1000}, "guided_regex"),
        ({"guided_grammar": "a" * (1 << 19)}, "guided_grammar"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_grammar": "root ::= ((("}, "guided_grammar"),
        ({"guided_regex": "\\"}, "guided_regex"),
        ({"structured_outputs": {"regex": "a\\\\\\"}}, "structured_outputs.regex"),
    ],
)
def test_what_is_no_format_is_refused_by_field(fields, field):
    with pytest.raises(InvalidRequestError) as caught:
        format_grammar(read_output_format(fields))
    assert caught.value.field == field


def test_schema_nested_too_deeply_is_refused():
    schema = {}
    for _ in range(5000):
        schema = {"type": "object", "properties": {"a": schema}}
    with pytest.raises(InvalidRequestError, match="nested"):
        schema_grammar(schema)


@pytest.mark.parametrize(
    "grammar",
    [
        "no grammar",
        "start: missing",
        'start: "a',
        "start: /(/",
        "start: /(?=a)b/",
        'start: %json {"type": "nonsense"}',
        'start: %json {"$ref": "http://127.0.0.1:1/schema.json"}',
        'start: %json {"type": "string", "minLength": 5, "maxLength": 3}',
        "start: " + "(" * 64 + '"a"',
        "",
    ],
)
def test_grammar_that_cannot_be_compiled_is_refused_with_a_reason(grammar):
    with pytest.raises(InvalidRequestError) as caught:
        compiler().matcher(grammar)
    assert caught.value.problem


def test_compiled_grammar_is_remembered_and_the_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(compiler_module, "MAX_CACHED", 3)
    small = GrammarCompiler(lambda: compiler().vocabulary)
    grammars = [format_grammar(text_format(FormatKind.REGEX, f"a{{{i}}}", "r")) for i in range(5)]
    for grammar in grammars:
        small.matcher(grammar)
    assert [small.is_known(g) for g in grammars] == [False, False, True, True, True]
    small.matcher(grammars[2])
    assert small.num_compiled == 5
    small.matcher(grammars[0])
    assert small.is_known(grammars[2])
    assert not small.is_known(grammars[3])


def test_matcher_of_one_request_moves_no_other():
    grammar = grammar_of(guided_regex="ab?c")
    first, second = guide_of(grammar), guide_of(grammar)
    first.advance(ids_of("a")[0])
    assert second.allowed()[ids_of("a")[0]]
    assert not first.allowed()[ids_of("a")[0]]
    assert first.allowed()[ids_of("c")[0]]


def test_logits_beyond_the_tokenizer_are_never_allowed():
    guide = guide_of(grammar_of(guided_regex=".*"))
    assert not guide.allowed()[8192:].any()
