import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.chat.stop import StopMatcher


def first_stop(text: str, stops: tuple[str, ...], include: bool) -> tuple[str, str | None]:
    """Plain reference: the shortest beginning that ends with a stop; the longest of those."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            stop = max(ending, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text("ab", max_size=4), max_size=8),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=4).map(tuple),
    st.booleans(),
)
def test_any_split_of_the_text_gives_the_text_up_to_the_first_completed_stop(
    pieces, stops, include
):
    matcher = StopMatcher(stops, include=include)
    emitted = ""
    for piece in pieces:
        text, is_stopped = matcher.push(piece)
        emitted += text
        assert is_stopped == (matcher.matched is not None)
    emitted += matcher.finish()
    assert (emitted, matcher.matched) == first_stop("".join(pieces), stops, include)


@settings(max_examples=200, deadline=None)
@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1))
def test_no_more_is_held_back_than_could_begin_a_stop(text, stops):
    matcher = StopMatcher(tuple(stops))
    emitted, is_stopped = matcher.push(text)
    held = "" if is_stopped else text[len(emitted) :]
    assert held == "" or any(stop.startswith(held) for stop in stops)


def test_earliest_completed_stop_wins_over_one_that_starts_earlier():
    assert StopMatcher(("abcd", "bc")).push("xabcd") == ("xa", True)
    assert StopMatcher(("bc", "abc")).push("xabcd") == ("x", True)


def test_text_after_a_stop_is_swallowed():
    matcher = StopMatcher(("\n\n",), include=True)
    assert matcher.push("one\n") == ("one", False)
    assert matcher.push("\ntwo") == ("\n\n", True)
    assert matcher.push("three") == ("", True)
    assert matcher.finish() == ""


def test_matcher_without_stops_passes_text_on_at_once():
    assert StopMatcher(()).push("abc") == ("abc", False)


def test_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="empty"):
        StopMatcher(("a", ""))
