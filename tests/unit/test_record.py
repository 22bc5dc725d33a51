"""Records: events survive their lines, no disk holds the engine up, a torn end is read."""

import json
import logging
import threading
from dataclasses import replace

import numpy as np
import pytest

from galerne.clock import VirtualClock
from galerne.errors import ConfigError
from galerne.ids import ShardId
from helpers import recorded
from helpers.gateways import request
from router.engine.plan import StepEntry, StepPlan
from router.engine.request import (
    FinishReason,
    ImageInput,
    ResumedChoice,
    TokenDelta,
    TokenLogprob,
    TokenLogprobs,
)
from router.engine.sequence import Sequence
from router.exchange.links import LinkBook, LinkState
from router.gateway import record_events as events
from router.gateway.record_file import create_record, find_records, read_record
from router.gateway.record_writer import RecordWriter
from router.gateway.replay import steps_of
from router.gateway.replay_compare import first_difference

ENTRY = events.PlannedEntry("r", 0, 16, 1, True)
GUESSED = events.PlannedEntry("r", 0, 16, 3, True, (4, 5))
OUTCOME = events.Outcome("r", 0, 3, (17,), "", "")
EVENTS = [
    events.Added(request("r", (1, 2), cache_salt="s", temperature=0.5)),
    events.Aborted("r", None, (0, 1)),
    events.Aborted("r", 1, (1,)),
    events.Preempted("r", (0,)),
    events.EpochCommitted(2, 8, 256, 128),
    events.FaultNoticed("shard-1", "down"),
    events.Planned((ENTRY, GUESSED), (("q", 1),)),
    events.Sampled((OUTCOME, OUTCOME._replace(ending="stop"))),
    events.Failed("shard shard-1 gave no answer", False, (OUTCOME._replace(token_ids=()),)),
    events.Incomplete("planted"),
    events.Closed(),
]
HEADER = replace(recorded.HEADER, incarnation="00ff", epoch=3)


def sequence(request_id="r", choice=0):
    return Sequence(
        request=request(request_id),
        choice=choice,
        arrival=0,
        token_ids=[1],
        num_prompt=1,
        max_num_tokens=9,
    )


def plan(*entries, preempted=()):
    return StepPlan(entries=entries, preempted=preempted, num_tokens=0, num_samples=0)


def written(directory):
    record = read_record(directory / "gateway-0-00ff")
    return [(line.step, line.event) for line in record.lines()]


# -- lines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_survives_its_line(event):
    text = events.to_line(7, 1.25, event)
    assert "\n" not in text
    assert events.from_line(3, text) == (3, 7, 1.25, event)


def test_a_request_survives_with_its_image_and_what_was_generated_elsewhere():
    image = ImageInput(
        pixels=np.arange(3 * 28 * 28, dtype=np.float32).reshape(3, 28, 28),
        offset=1,
        grid_width=1,
        grid_height=1,
        content_hash=b"h",
    )
    asked = replace(request("r", images=(image,)), resumed=(ResumedChoice((5, 6)),))
    read = events.from_line(1, events.to_line(0, 0.0, events.Added(asked))).event.request
    assert read.resumed == asked.resumed
    assert (read.images[0].pixels == image.pixels).all()
    assert replace(read, images=()) == replace(asked, images=())


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        "{",
        '{"step":1}',
        '{"step":1,"t":0,"event":"unknown"}',
        '{"step":1,"t":0,"event":"fault"}',
        '{"step":1,"t":0,"event":"added","request":"//8="}',
        '{"step":1,"t":0,"event":"planned","entries":[[1]],"preempted":[]}',
        b"\xff\n",
    ],
)
def test_what_is_no_event_is_refused(line):
    with pytest.raises(ValueError):  # noqa: PT011 - the message is the parser's
        events.from_line(1, line)


def test_log_probabilities_count_to_the_last_bit():
    def digest(logprob, prompt=()):
        position = TokenLogprobs(TokenLogprob(5, logprob), ())
        delta = TokenDelta(
            request_id="r",
            choice=0,
            offset=0,
            token_ids=(5,),
            logprobs=(position,),
            prompt_logprobs=prompt,
        )
        return events.outcomes([delta])[0].logprobs

    assert digest(-0.5) == digest(-0.5) != digest(np.nextafter(-0.5, 0).item())
    assert digest(-0.5, [None]) != digest(-0.5)


# -- the writer ------------------------------------------------------------------------------


def open_writer(directory, clock=None, **settings):
    return RecordWriter(create_record(directory, HEADER), clock or VirtualClock(), **settings)


def test_what_the_engine_does_is_written_in_order_with_its_step(tmp_path):
    clock = VirtualClock(100.0)
    writer = open_writer(tmp_path, clock)
    writer.added(request("r"))
    writer.planned(0, plan(StepEntry(sequence(), 0, 3, True)))
    clock.move_to(100.5)
    writer.fault_noticed("shard-1", "suspect")
    writer.sampled([TokenDelta(request_id="r", choice=0, offset=0, token_ids=(9,))])
    writer.preempted("r", [0])
    writer.planned(1, plan(preempted=(sequence("r", 2),)))
    writer.failed("planted", [], has_logits=True)
    writer.epoch_committed(2, HEADER.scheduler)
    writer.aborted("r", None, [0])
    writer.close()
    lines = list(read_record(tmp_path / "gateway-0-00ff").lines())
    assert [(line.step, type(line.event).__name__) for line in lines] == [
        (0, "Added"),
        (0, "Planned"),
        (0, "FaultNoticed"),
        (0, "Sampled"),
        (1, "Preempted"),
        (1, "Planned"),
        (1, "Failed"),
        (1, "EpochCommitted"),
        (1, "Aborted"),
        (1, "Closed"),
    ]
    assert lines[1].event.entries == (events.PlannedEntry("r", 0, 0, 3, True),)
    assert lines[5].event.preempted == (("r", 2),)
    assert [line.at_s for line in lines[:3]] == [0.0, 0.0, 0.5]
    assert [line.number for line in lines] == list(range(1, 11))


class SlowFile:
    """A disk that takes nothing until the test lets it."""

    def __init__(self, inner):
        self.inner, self.is_free = inner, threading.Event()

    def write(self, data):
        assert self.is_free.wait(60)
        return self.inner.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.inner.close()

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_a_disk_that_cannot_keep_up_ends_the_record_and_not_the_engine(tmp_path, caplog):
    file = SlowFile(create_record(tmp_path, HEADER))
    writer = RecordWriter(file, VirtualClock(), max_pending=10)
    for step in range(1000):  # returns at once although nothing can be written
        writer.planned(step, plan())
    file.is_free.set()
    writer.close()
    steps, found = zip(*written(tmp_path), strict=True)
    assert 10 <= len(found) <= 12
    assert steps[:-1] == tuple(range(len(found) - 1)), "no gap"
    assert isinstance(found[-1], events.Incomplete)
    assert sum("record_incomplete" in r.message for r in caplog.records) == 1


def test_a_disk_that_fails_ends_the_record_and_says_so_once(tmp_path, caplog):
    class FullFile(SlowFile):
        def write(self, data):
            raise OSError(28, "No space left on device")

    writer = RecordWriter(FullFile(create_record(tmp_path, HEADER)), VirtualClock())
    writer.added(request("r"))
    writer._thread.join(60)
    for step in range(100):
        writer.planned(step, plan())
    writer.close()
    assert writer._pending.qsize() <= 2
    assert [r.levelno for r in caplog.records] == [logging.ERROR]
    assert written(tmp_path) == []


# -- the files -------------------------------------------------------------------------------


def test_a_record_is_for_its_user_alone_and_its_header_survives(tmp_path):
    create_record(tmp_path / "new", HEADER).close()
    (record,) = find_records(tmp_path / "new")
    assert record.header == HEADER
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert record.path.stat().st_mode & 0o777 == 0o700
    assert {f.stat().st_mode & 0o777 for f in record.path.iterdir()} == {0o600}


def test_a_torn_last_line_is_left_out(tmp_path):
    with create_record(tmp_path, HEADER) as file:
        whole = [events.to_line(0, 0.0, event).encode() + b"\n" for event in EVENTS]
        file.write(b"".join(whole)[:-3])
    assert [event for _, event in written(tmp_path)] == EVENTS[:-1]


def test_a_line_that_cannot_be_read_is_named(tmp_path):
    with create_record(tmp_path, HEADER) as file:
        file.write(events.to_line(0, 0.0, EVENTS[1]).encode() + b"\n{\n")
    with pytest.raises(ConfigError, match=r"events\.jsonl:2"):
        written(tmp_path)


def test_records_are_found_by_gateway_and_start(tmp_path):
    for gateway, incarnation, day in (("g-1", "a", 1), ("g-0", "b", 3), ("g-0", "c", 2)):
        header = replace(
            HEADER, gateway=gateway, incarnation=incarnation, started_at=f"2026-01-0{day}"
        )
        create_record(tmp_path, header).close()
    assert [r.header.incarnation for r in find_records(tmp_path)] == ["c", "b", "a"]
    assert [r.header.incarnation for r in find_records(tmp_path / "g-1-a")] == ["a"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "cannot be read"), ("[]", "cannot be read"), ('{"format": 2}', "format other than 1")],
)
def test_a_header_that_cannot_be_read_is_refused(tmp_path, text, said):
    (tmp_path / "header.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        find_records(tmp_path)


def test_a_directory_without_a_record_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match="holds no record"):
            find_records(path)


def test_a_record_cannot_be_made_where_a_file_is(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="record"):
        create_record(tmp_path / "file", HEADER)


# -- comparing -------------------------------------------------------------------------------


def difference(recorded, replayed):
    return first_difference(events.RecordLine(9, 4, 0.0, recorded), replayed)


@pytest.mark.parametrize("event", EVENTS[1:], ids=lambda event: type(event).__name__)
def test_an_event_does_not_differ_from_itself_as_read_back(event):
    again = events.from_line(1, events.to_line(0, 0.0, event)).event
    assert difference(event, again) is None


@pytest.mark.parametrize(
    ("recorded", "replayed", "said"),
    [
        (
            events.Planned((ENTRY, ENTRY), ()),
            events.Planned((ENTRY, ENTRY._replace(start=32)), ()),
            "step 4 (line 9): plan entry 1: recorded PlannedEntry(request_id='r', choice=0, "
            "start=16, num_tokens=1, samples=True, draft=()), replayed PlannedEntry("
            "request_id='r', choice=0, start=32, num_tokens=1, samples=True, draft=())",
        ),
        (
            events.Planned((ENTRY,), (("q", 0),)),
            events.Planned((ENTRY,), ()),
            "step 4 (line 9): preempted choice 0: recorded ('q', 0), replayed nothing",
        ),
        (
            events.Sampled(()),
            events.Failed("planted", True, ()),
            "step 4 (line 9): event: recorded sampled, replayed failed (planted)",
        ),
        (
            events.Failed("one", False, ()),
            events.Failed("other", False, ()),
            "step 4 (line 9): reason: recorded 'one', replayed 'other'",
        ),
        (
            events.Preempted("r", (0, 1)),
            None,
            "step 4 (line 9): event: recorded preempted, replayed nothing",
        ),
    ],
)
def test_the_first_difference_is_named(recorded, replayed, said):
    assert str(difference(recorded, replayed)) == said


def test_a_step_is_its_plan_and_how_it_ended_with_faults_before_it():
    kinds = [EVENTS[5], EVENTS[6], EVENTS[5], EVENTS[7], EVENTS[3], EVENTS[6], EVENTS[8], EVENTS[6]]
    lines = [events.RecordLine(n, 0, 0.0, event) for n, event in enumerate(kinds)]
    found = [(a.number, b and b.number) for a, b in steps_of(lines)]
    assert found == [(0, None), (2, None), (1, 3), (4, None), (5, 6), (7, None)]


# -- what records hear of links --------------------------------------------------------------


def test_only_changes_of_a_link_are_told():
    told = []
    shard = ShardId("shard-0")
    book = LinkBook([shard], lambda *change: told.append(change))
    for act in (book.down, book.up, book.up, book.suspect, book.suspect, book.heard_from):
        act(shard)
    book.heard_from(shard)
    book.down(shard)
    states = (LinkState.UP, LinkState.SUSPECT, LinkState.UP, LinkState.DOWN)
    assert told == [(shard, state) for state in states]


def test_endings_name_the_reason_and_an_error():
    def ending(**fields):
        delta = TokenDelta(request_id="r", choice=0, offset=0, token_ids=(), **fields)
        return events.outcomes([delta])[0].ending

    assert ending() == ""
    assert ending(finish_reason=FinishReason.LENGTH) == "length"
    assert ending(finish_reason=FinishReason.ERROR, error="planted") == "error: planted"


def test_a_header_is_readable_json(tmp_path):
    create_record(tmp_path, HEADER).close()
    fields = json.loads((tmp_path / "gateway-0-00ff" / "header.json").read_text())
    assert (fields["format"], fields["scheduler"]["max_num_seqs"]) == (1, 4)
