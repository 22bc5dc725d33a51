"""Laws of resuming: what a client has had, and what of what is parked must give way."""

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galerne.errors import InvalidRequestError
from router.api.answer import AnswerFacts
from router.api.events import ChatDelta, EndReason, Finished, TokensDelta
from router.api.resume import ResumeFilter, ResumePoint, parse_event_id, parse_offsets
from router.api.split import split
from router.chat.parse import ContentDelta
from router.engine.request import FinishReason, TokenDelta, TokenLogprob, TokenLogprobs
from router.engine.stream_log import Parking, StreamLog, TakenOverError, surplus


def choice_events(choice, num_parts_by_token):
    """A choice's stream: every token with so many parts, and an end."""
    for offset, num_parts in enumerate(num_parts_by_token):
        yield TokensDelta(choice=choice, offset=offset, token_ids=(7,))
        for i in range(num_parts):
            yield ChatDelta(choice=choice, piece=ContentDelta(f"{offset}.{i}"))
    yield Finished(choice=choice, reason=EndReason.STOP)


streams = st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=3)


@given(streams, st.data())
def test_a_client_gets_of_every_choice_what_follows_the_place_where_it_was(shapes, data):
    by_choice = [list(choice_events(c, shape)) for c, shape in enumerate(shapes)]
    cuts = [data.draw(st.integers(0, len(events))) for events in by_choice]
    counter = ResumeFilter((), len(shapes))
    for events, cut in zip(by_choice, cuts, strict=True):
        assert all(counter.wants(event) for event in events[:cut])
    points = parse_event_id(counter.event_id)
    # Another turn-taking of the choices makes no difference.
    new = ResumeFilter(points, len(shapes))
    for events, cut in reversed(list(zip(by_choice, cuts, strict=True))):
        assert [event for event in events if new.wants(event)] == events[cut:]


@given(st.lists(st.integers(0, 3), max_size=6), st.data())
def test_an_offset_alone_means_all_parts_of_the_tokens_before_it_but_not_the_end(shape, data):
    offset = data.draw(st.integers(0, len(shape)))
    events = list(choice_events(0, shape))
    new = ResumeFilter(parse_offsets([str(offset)]), 1)
    start = offset + sum(shape[:offset])
    assert [event for event in events if new.wants(event)] == events[start:]


@pytest.mark.parametrize("text", ["", "5", "5.", "a.b", "1.2,", "1.2;3.4", "-1.2", "1.2,3"])
def test_id_of_no_chunk_is_refused(text):
    with pytest.raises(InvalidRequestError, match="Last-Event-ID"):
        parse_event_id(text)


@pytest.mark.parametrize("points", [[ResumePoint(-1)], [ResumePoint(1, -1)], [ResumePoint()] * 2])
def test_place_that_cannot_be_is_refused(points):
    with pytest.raises(InvalidRequestError, match="points"):
        ResumeFilter(points, 1)


@dataclass(eq=False)
class Parked:
    num_tokens: int
    is_delivered: bool = False


parked = st.lists(st.builds(Parked, st.integers(1, 20), st.booleans()), max_size=8)


@given(parked, st.integers(1, 5), st.integers(1, 60))
def test_what_is_left_fits_and_nothing_gives_way_without_need(streams, max_parked, max_tokens):
    dropped = surplus(streams, max_parked, max_tokens)
    left = [stream for stream in streams if stream not in dropped]
    assert len(left) <= max_parked
    assert sum(stream.num_tokens for stream in left) <= max_tokens
    if dropped:
        kept = [*left, dropped[-1]]
        assert len(kept) > max_parked or sum(s.num_tokens for s in kept) > max_tokens
    if any(not stream.is_delivered for stream in dropped):
        assert not any(stream.is_delivered for stream in left)


async def test_parked_stream_is_dropped_after_its_grace_unless_someone_comes():
    dropped = []
    parking = Parking(5, 100, dropped.append)
    left, back = Parked(1), Parked(1)
    parking.park(left, 0.02)
    parking.park(back, 0.02)
    parking.leave(back)
    await asyncio.sleep(0.05)
    assert (dropped, len(parking)) == ([left], 0)
    parking.park(back, 0.02)
    parking.clear()
    await asyncio.sleep(0.05)
    assert dropped == [left]


async def test_log_gives_every_reader_all_of_it_and_the_newest_has_it():
    changes = []
    log = StreamLog("r", changes.append)
    log.append(1)
    older = log.read()
    assert await anext(older) == 1
    waiting = asyncio.ensure_future(anext(older))
    await asyncio.sleep(0)
    newer = log.read()
    assert await anext(newer) == 1
    with pytest.raises(TakenOverError):
        await waiting
    log.append(2)
    log.close()
    log.append(3)
    assert [item async for item in newer] == [2]
    assert changes == [True, True, False]
    assert log.is_delivered
    assert [item async for item in log.read(1)] == [2]


@given(st.lists(st.integers(0, 99), max_size=5), st.booleans(), st.booleans())
def test_split_delta_says_the_same_token_by_token(token_ids, has_logprobs, is_end):
    logprobs = [TokenLogprobs(TokenLogprob(t, -1.0), ()) for t in token_ids]
    delta = TokenDelta(
        request_id="r",
        choice=1,
        offset=3,
        token_ids=tuple(token_ids),
        logprobs=logprobs if has_logprobs else (),
        prompt_logprobs=(None,),
        finish_reason=FinishReason.STOP if is_end else None,
        stop_token_id=5 if is_end else None,
    )
    pieces = list(split(delta))
    assert [t for piece in pieces for t in piece.token_ids] == token_ids
    assert [p for piece in pieces for p in piece.logprobs] == list(delta.logprobs)
    assert [piece.offset for piece in pieces] == [3 + i for i in range(len(pieces))]
    assert [bool(p.prompt_logprobs) for p in pieces] == [True, *[False] * (len(pieces) - 1)]
    ends = [piece.finish_reason for piece in pieces]
    assert ends == [None] * (len(pieces) - 1) + [delta.finish_reason]


def test_facts_of_an_answer_survive_their_gateway():
    facts = AnswerFacts(api="chat", has_tools=True, call_id_key="k", page={"created": 5})
    assert AnswerFacts.decode(facts.encode()) == facts
