from functools import cache
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from router.chat.parse import (
    ContentDelta,
    OutputParser,
    ReasoningDelta,
    ToolArgumentsDelta,
    ToolCallStart,
)
from router.chat.tokenizer import Tokenizer, load_tokenizer

THINK, END_THINK, CALLS, ARGS, EOS, INST = 34, 35, 9, 32, 2, 3


@cache
def embedded() -> Tokenizer:
    return load_tokenizer(None)


def ids_of(*parts: str | int) -> list[int]:
    ids = []
    for part in parts:
        ids += [part] if isinstance(part, int) else embedded().encode_text(part, add_bos=False)
    return ids


def parse(*parts: str | int, **options: bool) -> list:
    parser = OutputParser(embedded(), **options)
    return parser.push(ids_of(*parts)) + parser.finish()


def joined(deltas: list) -> list:
    """The deltas with neighbours of one kind joined, as (kind, index, text)."""
    out = []
    for delta in deltas:
        is_start = isinstance(delta, ToolCallStart)
        text = delta.name if is_start else delta.text
        key = (type(delta), getattr(delta, "index", None))
        if out and out[-1][0] == key and not is_start:
            out[-1] = (key, out[-1][1] + text)
        else:
            out.append((key, text))
    return out


def test_answer_with_reasoning_and_two_calls_is_taken_apart():
    deltas = parse(
        THINK, "Both, then.", END_THINK, "Wait.",
        CALLS, "get_weather", ARGS, '{"city": "Paris"}',
        CALLS, "get_weather", ARGS, '{"city": "Rome"}', EOS,
    )  # fmt: skip
    assert deltas == [
        ReasoningDelta("Both, then."),
        ContentDelta("Wait."),
        ToolCallStart(0, "get_weather"),
        ToolArgumentsDelta(0, '{"city": "Paris"}'),
        ToolCallStart(1, "get_weather"),
        ToolArgumentsDelta(1, '{"city": "Rome"}'),
    ]


def test_names_of_special_tokens_written_as_text_are_text():
    text = "[THINK]a[/THINK][TOOL_CALLS]rm[ARGS]{}</s>"
    assert parse(text) == [ContentDelta(text)]


def test_call_without_arguments_token_becomes_content():
    assert parse(CALLS, "get_weather", EOS) == [ContentDelta("get_weather")]
    assert parse(CALLS, "get_wea") == [ContentDelta("get_wea")]
    assert parse("a", CALLS, "f", CALLS, "g", ARGS, "{}") == [
        ContentDelta("af"),
        ToolCallStart(0, "g"),
        ToolArgumentsDelta(0, "{}"),
    ]


def test_text_that_is_no_function_name_becomes_content_at_once():
    parser = OutputParser(embedded())
    assert parser.push(ids_of(CALLS, 'x [{"name"')) == [ContentDelta('x [{"name"')]
    assert parser.push(ids_of(ARGS, ": 1}")) == [ContentDelta(": 1}")]
    assert parse(CALLS, "a" * 65, ARGS, "{}") == [ContentDelta("a" * 65 + "{}")]
    assert parse(CALLS, ARGS, "{}") == [ContentDelta("{}")]


def test_white_space_around_a_name_is_forgiven():
    assert parse(CALLS, " get_weather\n", ARGS)[0] == ToolCallStart(0, "get_weather")


def test_name_is_held_until_it_is_certain():
    parser = OutputParser(embedded())
    assert parser.push(ids_of(CALLS, "get_weather")) == []
    assert parser.push([ARGS]) == [ToolCallStart(0, "get_weather")]
    assert parser.num_calls == 1


def test_stray_tokens_lose_no_text():
    assert parse("a", ARGS, "b", END_THINK, "c", INST, "d") == [ContentDelta("abcd")]
    assert parse(THINK, "a", THINK, "b", END_THINK, "c", END_THINK, "d") == [
        ReasoningDelta("ab"),
        ContentDelta("cd"),
    ]
    assert parse(CALLS, "na", INST, "me", ARGS, "{}") == [ContentDelta("name{}")]
    assert parse(CALLS, "f", ARGS, '{"a"', ARGS, INST, END_THINK, ": 1}") == [
        ToolCallStart(0, "f"),
        ToolArgumentsDelta(0, '{"a": 1}'),
    ]


def test_call_ends_reasoning_and_reasoning_ends_a_call():
    assert parse(THINK, "a", CALLS, "f", ARGS, "{}", THINK, "b") == [
        ReasoningDelta("a"),
        ToolCallStart(0, "f"),
        ToolArgumentsDelta(0, "{}"),
        ReasoningDelta("b"),
    ]


def test_text_after_the_end_of_the_turn_is_content():
    assert parse(THINK, "a", EOS, "b") == [ReasoningDelta("a"), ContentDelta("b")]
    assert parse(CALLS, "f", ARGS, "{}", EOS, "b")[-1] == ContentDelta("b")


def test_parsers_can_be_switched_off():
    ids = (THINK, "a", END_THINK, "b", CALLS, "f", ARGS, "{}", EOS)
    assert parse(*ids, parse_reasoning=False, parse_tools=False) == [ContentDelta("abf{}")]
    assert parse(*ids, parse_tools=False) == [ReasoningDelta("a"), ContentDelta("bf{}")]
    assert parse(*ids, parse_reasoning=False)[:2] == [ContentDelta("ab"), ToolCallStart(0, "f")]


def test_continued_reasoning_stays_reasoning():
    deltas = parse("a", END_THINK, "b", starts_in_reasoning=True)
    assert deltas == [ReasoningDelta("a"), ContentDelta("b")]
    assert parse("a", starts_in_reasoning=True, parse_reasoning=False) == [ContentDelta("a")]


def test_half_a_character_waits_and_is_replaced_only_at_the_end_of_its_part():
    parser = OutputParser(embedded())
    first, second = (1000 + byte for byte in "é".encode())
    assert parser.push([first]) == []
    assert parser.push([second, first]) == [ContentDelta("é")]
    assert parser.push([THINK]) == [ContentDelta("\ufffd")]
    assert parser.finish() == []


PARTS = st.lists(
    st.sampled_from([THINK, END_THINK, CALLS, ARGS, EOS, INST, 8192])
    | st.integers(1000, 1255)
    | st.sampled_from(["get_weather", '{"a": "é"}', " ", "日本", "f"]),
    max_size=20,
)


@settings(max_examples=200, deadline=None)
@given(PARTS, st.lists(st.integers(0, 60), max_size=8), st.booleans(), st.booleans())
def test_any_split_of_the_ids_gives_the_same_answer(parts, cuts, reasoning, tools):
    ids = ids_of(*parts)
    options = {"parse_reasoning": reasoning, "parse_tools": tools}
    parser = OutputParser(embedded(), **options)
    bounds = [0, *sorted(cuts), len(ids)]
    deltas = []
    for start, end in pairwise(bounds):
        deltas += parser.push(ids[start:end])
    deltas += parser.finish()
    assert joined(deltas) == joined(parse(*parts, **options))


@settings(max_examples=200, deadline=None)
@given(PARTS)
def test_no_text_is_lost_whatever_the_model_emits(parts):
    text = "".join(piece for _, piece in joined(parse(*parts)))
    expected = embedded().decode(ids_of(*parts))
    assert "".join(text.split()) == "".join(expected.split())  # white space around names may go


def test_every_split_of_an_answer_gives_the_same():
    ids = ids_of(THINK, "🌊", END_THINK, "é", CALLS, "f", ARGS, "{}", EOS)
    whole = joined(parse(*ids))
    assert [text for _, text in whole] == ["🌊", "é", "f", "{}"]
    num_cuts = len(ids) - 1
    assert 8 <= num_cuts <= 13
    for cuts in range(1 << num_cuts):
        parser, deltas, start = OutputParser(embedded()), [], 0
        for position in range(num_cuts):
            if cuts >> position & 1:
                deltas += parser.push(ids[start : position + 1])
                start = position + 1
        deltas += parser.push(ids[start:]) + parser.finish()
        assert joined(deltas) == whole
