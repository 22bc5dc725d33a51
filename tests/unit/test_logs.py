"""One event a line, whatever its fields hold."""

import io
import json
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galerne.errors import ConfigError
from galerne.logs import Formatter, LogSettings, event_of, set_level, set_up, trace_ids

VALUES = st.one_of(st.text(max_size=40), st.integers(), st.floats(allow_nan=False), st.none())


def record(template, *args, level=logging.WARNING, **more):
    return logging.LogRecord("router.x", level, "file", 1, template, args, more.get("exc_info"))


def json_of(template, *args, **more):
    return json.loads(Formatter("json", "gateway-0").format(record(template, *args, **more)))


@given(VALUES, VALUES)
def test_a_line_is_one_line_and_its_json_gives_the_fields_back(shard, reason):
    made = record("link_down shard=%s reason=%s", shard, reason)
    for format_ in ("json", "logfmt"):
        line = Formatter(format_, "p").format(made)
        assert len(line.splitlines()) == 1
        assert line.isprintable()
    told = json.loads(Formatter("json", "p").format(made))
    assert told["event"] == "link_down"
    for name, value in (("shard", shard), ("reason", reason)):
        assert told[name] == (value if isinstance(value, int | float) else str(value))


@given(st.text(max_size=40))
def test_a_value_cannot_pose_as_a_field(text):
    line = Formatter("logfmt", "p").format(record("asked who=%s", text))
    rest = line.partition(" who=")[2]
    assert json.loads(rest) == text if rest.startswith('"') else rest == text


def test_the_parts_of_a_line():
    told = json_of("engine_step_failed step=%d reason=%s", 7, "x")
    assert list(told) == ["at", "level", "process", "logger", "event", "step", "reason"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told.pop("at"))
    assert told == {
        "level": "warning",
        "process": "gateway-0",
        "logger": "router.x",
        "event": "engine_step_failed",
        "step": 7,
        "reason": "x",
    }
    line = Formatter("logfmt", "gateway-0").format(record("link_up shard=%s by=%s", "s-1", "a b"))
    assert line.endswith(
        'level=warning process=gateway-0 logger=router.x event=link_up shard=s-1 by="a b"'
    )


@pytest.mark.parametrize(
    ("template", "args", "event", "fields"),
    [
        ("started", (), "started", {}),
        ("follow_failed reason=%r", ("x",), "follow_failed", {"reason": "'x'"}),
        ("adopted s=%.2f n=%d", (1.234, 5), "adopted", {"s": "1.23", "n": 5}),
        ("Something else: %s", ("x",), "log", {"message": "Something else: x"}),
        ("words of a library", (), "log", {"message": "words of a library"}),
        ("half a=%s and more", (1,), "log", {"message": "half a=1 and more"}),
    ],
)
def test_what_is_an_event_and_what_is_text(template, args, event, fields):
    assert event_of(record(template, *args)) == (event, fields)


def test_a_field_does_not_take_a_name_of_the_line():
    assert json_of("audited at=%s level=%s", 1, 2)["at_"] == 1
    assert json_of("audited at=%s level=%s", 1, 2)["level"] == "warning"


def test_a_stack_is_one_field():
    error = RuntimeError("planted\nhere")
    told = json_of("broke", exc_info=(type(error), error, None))
    assert "RuntimeError: planted" in told["error"]


def test_a_line_of_a_traced_request_has_its_trace():
    trace_ids["r-1"] = "ab" * 16
    try:
        assert json_of("stream_failed request=%s", "r-1")["trace"] == "ab" * 16
        assert "trace" not in json_of("stream_failed request=%s", "r-2")
    finally:
        del trace_ids["r-1"]


def test_levels_change_while_it_runs_for_our_code_alone():
    stream = io.StringIO()
    set_up(LogSettings(), "p", stream)
    ours, theirs = logging.getLogger("router.x"), logging.getLogger("another.library")
    for level, is_told in (("warning", False), ("debug", True), ("error", False)):
        set_level(level)
        ours.info("told level=%s", level)
        theirs.info("told level=%s", level)
        lines = stream.getvalue().splitlines()
        assert any(f"level_={level}" in line for line in lines) is is_told
    assert "another" not in stream.getvalue()
    theirs.warning("two words")
    assert 'event=log message="two words"' in stream.getvalue()
    assert len(logging.getLogger().handlers) == 1
    logging.getLogger("galerne.audit").warning("key_refused who=%s", "x")
    assert "event=key_refused who=x" in stream.getvalue(), "no level hides it"


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"format": "xml"}, "log_format=xml"), ({"level": "loud"}, "log_level=loud")],
)
def test_a_wrong_setting_is_named(settings, said):
    with pytest.raises(ConfigError, match=said):
        LogSettings(**settings)
