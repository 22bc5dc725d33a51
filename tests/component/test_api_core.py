import asyncio
import hashlib
import subprocess
import sys
from contextlib import aclosing
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galerne.errors import (
    ConfigError,
    InvalidRequestError,
    OverloadedError,
    UnauthenticatedError,
)
from helpers.api_servers import embedded, ids_of, make_frontend
from helpers.fake_gateway import Answer, FakeGateway
from router.api.admission import fill_sampling
from router.api.chat_choice import ChatChoice
from router.api.choices import TextChoice
from router.api.events import ChatDelta, EndReason, Finished, TokensDelta, ToolCallStarted, Usage
from router.api.inputs import ApiLimits, ChatCompletionInput, GenerateInput
from router.api.keys import ApiKeys
from router.api.neutral import check_unsupported
from router.chat.encode import ChatInput
from router.chat.parse import ContentDelta, ReasoningDelta
from router.engine.request import FinishReason, SamplingParams, TokenDelta

THINK, END_THINK, CALLS, ARGS, EOS = 34, 35, 9, 32, 2
SPECIALS = (THINK, END_THINK, CALLS, ARGS, 10, 3)

some_ids = st.lists(
    st.one_of(st.sampled_from(SPECIALS), st.sampled_from(ids_of("a b, 😀 é ab; ba \n"))),
    max_size=30,
)
some_stops = st.lists(st.sampled_from(["ab", "b", ", ", "😀 ", ";", "aba"]), max_size=2).map(tuple)


def deltas_of(ids, cuts, reason=FinishReason.LENGTH, stop_token_id=None):
    """The ids as deltas, cut at ``cuts``; the last one ends the choice."""
    places = [0, *sorted(cut % (len(ids) + 1) for cut in cuts), len(ids)]
    for i, (start, end) in enumerate(pairwise(places)):
        is_last = i == len(places) - 2
        yield TokenDelta(
            request_id="r",
            choice=0,
            offset=start,
            token_ids=ids[start:end],
            finish_reason=reason if is_last else None,
            stop_token_id=stop_token_id if is_last else None,
        )


def events_of(choice, deltas):
    return [event for delta in deltas for event in choice.push(delta)]


def told(events):
    """What a client makes of the events, however they were cut."""
    ids = [t for e in events if isinstance(e, TokensDelta) for t in e.token_ids]
    text = "".join(e.text for e in events if isinstance(e, TokensDelta))
    pieces = []
    for piece in (e.piece for e in events if isinstance(e, ChatDelta)):
        if isinstance(piece, ToolCallStarted):
            pieces.append(("call", piece.index, piece.name))
            continue
        key = (type(piece).__name__, getattr(piece, "index", None))
        if pieces and pieces[-1][:2] == key:
            pieces[-1] = (*key, pieces[-1][2] + piece.text)
        else:
            pieces.append((*key, piece.text))
    ends = [e for e in events if isinstance(e, Finished)]
    return ids, text, pieces, ends


@settings(max_examples=150, deadline=None)
@given(some_ids, st.lists(st.integers(0, 30), max_size=5), some_stops, st.integers(0, 4))
def test_text_of_a_choice_is_decoded_text_up_to_its_stop_however_deltas_are_cut(
    ids, cuts, stops, min_tokens
):
    sampling = SamplingParams(stop=stops, min_tokens=min_tokens)
    results = [
        told(events_of(TextChoice(0, sampling, embedded()), deltas_of(ids, some)))
        for some in ([], cuts, range(len(ids)))
    ]
    assert results[0] == results[1] == results[2]
    kept, text, _, [end] = results[0]
    assert kept == ids[: len(kept)]
    whole = embedded().decode(ids)
    assert whole.startswith(text)
    if end.stop:
        assert (end.reason, end.stop in stops) == (EndReason.STOP, True)
        assert whole[len(text) :].startswith(end.stop)
    else:
        assert (end.reason, text, kept) == (EndReason.LENGTH, whole, ids)
        assert min_tokens or not any(stop in whole for stop in stops)


@settings(max_examples=150, deadline=None)
@given(some_ids, st.lists(st.integers(0, 30), max_size=5), some_stops)
def test_chat_is_parsed_the_same_however_deltas_are_cut(ids, cuts, stops):
    sampling = SamplingParams(stop=stops)
    results = []
    for some in ([], cuts, range(len(ids))):
        choice = ChatChoice(0, sampling, embedded(), has_tools=True)
        results.append((told(events_of(choice, deltas_of(ids, some))), choice.num_reasoning_tokens))
    assert results[0] == results[1] == results[2]
    assert len(results[0][0][3]) == 1


def test_stop_token_is_counted_but_not_text():
    ids = ids_of("ab", "!")
    for stop_token_id, text in ((ids[-1], "ab"), (None, "ab!")):
        choice = TextChoice(0, SamplingParams(), embedded())
        events = events_of(choice, deltas_of(ids, [], FinishReason.STOP, stop_token_id))
        told_ids, told_text, _, [end] = told(events)
        assert (told_ids, told_text) == (ids, text)
        assert (end.reason, end.stop_token_id) == (EndReason.STOP, stop_token_id)
        assert choice.num_tokens == len(ids)


def test_nothing_comes_after_a_choice_has_ended():
    choice = TextChoice(0, SamplingParams(stop=("b",)), embedded())
    first = choice.push(TokenDelta(request_id="r", choice=0, offset=0, token_ids=ids_of("a b")))
    assert isinstance(first[-1], Finished)
    late = TokenDelta(
        request_id="r", choice=0, offset=2, token_ids=(5,), finish_reason=FinishReason.LENGTH
    )
    assert choice.push(late) == []
    assert choice.end(EndReason.ERROR) == []


def test_chat_that_begins_in_reasoning_counts_and_parses_it():
    choice = ChatChoice(0, SamplingParams(), embedded(), has_tools=False, starts_in_reasoning=True)
    ids = ids_of("Hm", END_THINK, "ok", CALLS, "f", ARGS, "{}")
    _, _, pieces, [end] = told(events_of(choice, deltas_of(ids, [], FinishReason.STOP)))
    assert [text for *_, text in pieces] == ["Hm", "okf{}"]  # a call means nothing without tools
    assert [name for name, *_ in pieces] == [ReasoningDelta.__name__, ContentDelta.__name__]
    assert choice.num_reasoning_tokens == len(ids_of("Hm"))
    assert end.reason is EndReason.STOP


def test_calls_that_were_cut_off_end_with_length():
    choice = ChatChoice(0, SamplingParams(), embedded(), has_tools=True)
    *_, [end] = told(events_of(choice, deltas_of(ids_of(CALLS, "f", ARGS, "{"), [])))
    assert end.reason is EndReason.LENGTH


def test_defaults_are_filled_from_what_the_length_leaves():
    filled = fill_sampling({}, prompt_len=10, max_model_len=100, new_seed=lambda: 7)
    assert (filled.max_tokens, filled.seed) == (90, 7)
    few = fill_sampling({}, prompt_len=95, max_model_len=100, default_max_tokens=16)
    assert few.max_tokens == 5
    with pytest.raises(InvalidRequestError, match="prompt: 100 tokens leave no room"):
        fill_sampling({}, prompt_len=100, max_model_len=100)


async def test_full_frontend_refuses_and_takes_again_after_an_end():
    gateway = FakeGateway()
    frontend = make_frontend(gateway, limits=ApiLimits(max_running=1))
    first = frontend.generate(GenerateInput(prompt="a"))
    asking = asyncio.create_task(anext(first))
    (await gateway.next_run()).emit(5)
    await asking
    with pytest.raises(OverloadedError, match="frontend is full"):
        await anext(frontend.generate(GenerateInput(prompt="b")))
    await first.aclose()
    assert gateway.runs[0].aborted.is_set()
    gateway.answers = (Answer(ids_of("ok")),)
    async with aclosing(frontend.generate(GenerateInput(prompt="c"))) as events:
        assert isinstance([event async for event in events][-1], Usage)


async def test_cached_tokens_are_not_those_that_choices_of_one_request_share():
    gateway = FakeGateway()
    call = GenerateInput(prompt="a b c", sampling={"n": 2, "max_tokens": 1})

    async def usage():
        return [event async for event in make_frontend(gateway).generate(call)][-1]

    asking = asyncio.create_task(usage())
    run = await gateway.next_run()
    for choice, num_cached in enumerate((1, 3)):  # the second waited for the blocks of the first
        run.num_cached_tokens = num_cached
        run.emit(5, choice=choice, reason=FinishReason.LENGTH)
    assert (await asking).cached_tokens == 1


async def test_chat_that_does_not_fit_names_its_messages():
    frontend = make_frontend(FakeGateway(max_model_len=64))
    messages = [{"role": "user", "content": "word " * 100}]
    with pytest.raises(InvalidRequestError, match="messages: "):
        await anext(frontend.chat(ChatCompletionInput(chat=ChatInput(messages=messages))))


async def test_tokenizer_with_another_image_token_is_refused():
    with pytest.raises(ConfigError, match="image_token_id"):
        make_frontend(FakeGateway(takes_images=True, image_token_id=11))


def test_key_passes_written_out_or_hashed_and_nothing_else():
    hashed = "sha256:" + hashlib.sha256(b"two").hexdigest()
    keys = ApiKeys(["key-one", hashed])
    keys.check("Bearer key-one")
    keys.check("bearer two")
    for wrong in (
        None,
        "",
        "key-one",
        "Basic key-one",
        "Bearer",
        "Bearer three",
        f"Bearer {hashed}",
    ):
        with pytest.raises(UnauthenticatedError):
            keys.check(wrong)
    ApiKeys().check(None)
    assert "key-one" not in str(vars(keys))
    for bad in ("", " ", "sha256:abc"):
        with pytest.raises(ConfigError):
            ApiKeys([bad])


@pytest.mark.parametrize(
    "extra",
    [
        {"user": "x"},
        {"best_of": 2},
        {"guided_whatever": None},
        {"unheard_of": None},
        {"modalities": ["text"]},
    ],
)
def test_field_that_changes_nothing_passes(extra):
    check_unsupported(extra, 2)


@pytest.mark.parametrize(
    "extra",
    [{"best_of": 3}, {"guided_whatever": {}}, {"unheard_of": 0}, {"documents": [1]}],
)
def test_field_that_asks_for_something_is_refused(extra):
    [field] = extra
    with pytest.raises(InvalidRequestError, match=f"{field}: "):
        check_unsupported(extra, 2)


def test_api_starts_without_torch_and_ray():
    code = (
        "import sys, router.api.http_app, router.api.grpc_server;"
        "sys.exit(len({'torch', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
