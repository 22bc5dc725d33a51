"""Requests that wait for their images, before the scheduler sees them."""

from dataclasses import replace

import pytest

from galerne.errors import InvalidRequestError, NotServingError, OverloadedError
from helpers.fake_engine import create_image, create_request
from router.engine.preparing import NoImages, Preparing
from router.engine.request import FinishReason, ResumedChoice
from router.engine.sequence import Sequence, SequenceState


class FakePreparer:
    """Is ready when the test says so."""

    def __init__(self):
        self.ready, self.begun, self.released = set(), [], []
        self.failures = {}
        self.num_shares = 0

    def begin(self, request):
        self.begun.append(request.request_id)

    def is_ready(self, request):
        if request.request_id in self.failures:
            raise self.failures[request.request_id]
        return request.request_id in self.ready

    def work(self):
        self.num_shares += 1
        return True

    def release(self, request):
        self.released.append(request.request_id)


class Door:
    """What the engine does with the requests."""

    def __init__(self, preparer=None):
        self.joined, self.refused = [], []
        self.error = None
        self.preparer = preparer or FakePreparer()
        self.preparing = Preparing(self.preparer, self.join, self.refuse)
        self.sequences = {}

    def join(self, request, arrived_s):
        if self.error is not None:
            self.refuse(request)
            raise self.error
        self.joined.append((request.request_id, arrived_s))
        fields = {"token_ids": [1], "num_prompt": 1, "max_num_tokens": 5, "arrival": 0}
        made = [Sequence(request=request, choice=c, **fields) for c in request.open_choices]
        self.sequences[request.request_id] = made
        return made

    def refuse(self, request):
        self.refused.append(request.request_id)

    def end(self, request_id):
        for sequence in self.sequences[request_id]:
            sequence.move_to(SequenceState.FINISHED)


def shown(request_id="r", **fields):
    return create_request(request_id, images=[create_image(0, 1)], **fields)


def test_request_without_images_joins_at_once_and_costs_nothing_later():
    door = Door()
    assert door.preparing.add(create_request("text"), 3.0) is None
    assert door.joined == [("text", 3.0)]
    assert not door.preparing.is_tracking
    assert not door.preparing.advance()
    assert door.preparer.begun == []


def test_request_joins_when_its_images_are_there_and_others_pass_it_meanwhile():
    door = Door()
    waits = door.preparing.add(shown("shown"), 1.0)
    door.preparing.add(create_request("text"), 2.0)
    assert door.preparing.advance()
    assert door.joined == [("text", 2.0)]
    assert not waits.done()
    assert (door.preparing.is_busy, door.preparing.num_choices) == (True, 1)
    door.preparer.ready.add("shown")
    door.preparing.advance()
    assert door.joined == [("text", 2.0), ("shown", 1.0)]
    assert waits.result(0) is None
    assert not door.preparing.is_busy
    assert door.preparer.num_shares == 2


def test_images_are_released_when_the_last_choice_has_ended():
    door = Door()
    door.preparer.ready.add("shown")
    assert door.preparing.add(shown("shown", n=2), 0.0) is None
    door.preparing.advance()
    assert door.preparer.released == []
    door.end("shown")
    door.preparing.advance()
    assert door.preparer.released == ["shown"]
    assert not door.preparing.is_tracking


def test_failure_ends_its_own_request():
    door = Door()
    futures = [door.preparing.add(shown(name), 0.0) for name in ("sick", "well")]
    door.preparer.failures["sick"] = InvalidRequestError("images[0]", "planted")
    door.preparer.ready.add("well")
    door.preparing.advance()
    assert isinstance(futures[0].exception(0), InvalidRequestError)
    assert futures[1].result(0) is None
    assert door.refused == door.preparer.released == ["sick"]


def test_request_whose_image_has_failed_for_another_is_refused_at_once():
    door = Door()
    door.preparer.failures["r"] = InvalidRequestError("images[0]", "planted")
    with pytest.raises(InvalidRequestError, match="planted"):
        door.preparing.add(shown(), 0.0)
    assert door.refused == door.preparer.released == ["r"]
    assert not door.preparing.is_busy


def test_request_that_the_scheduler_refuses_in_the_end_is_told_and_released():
    door = Door()
    waits = door.preparing.add(shown(), 0.0)
    door.error = OverloadedError("request queue", 1, 1.0)
    door.preparer.ready.add("r")
    door.preparing.advance()
    assert waits.exception(0) is door.error
    assert door.refused == door.preparer.released == ["r"]
    door.preparer.ready.add("at once")
    with pytest.raises(OverloadedError):
        door.preparing.add(shown("at once"), 0.0)
    assert door.refused == door.preparer.released == ["r", "at once"]


def test_abort_gives_every_choice_its_end_at_the_place_it_had_reached():
    door = Door()
    resumed = (ResumedChoice((4, 5)), ResumedChoice((), True), ResumedChoice(()))
    request = replace(shown("moved", n=3), resumed=resumed)
    waits = door.preparing.add(request, 0.0)
    assert door.preparing.abort("moved", 0) == []
    deltas = door.preparing.abort("moved", None)
    assert [(d.choice, d.offset, d.finish_reason) for d in deltas] == [
        (0, 2, FinishReason.ABORT),
        (2, 0, FinishReason.ABORT),
    ]
    assert waits.result(0) is None
    assert door.refused == door.preparer.released == ["moved"]
    assert door.preparing.abort("moved", None) == []


def test_only_choice_is_ended_by_its_number():
    door = Door()
    door.preparing.add(shown(), 0.0)
    assert [d.choice for d in door.preparing.abort("r", 0)] == [0]


def test_id_that_waits_already_is_refused():
    door = Door()
    door.preparing.add(shown(), 0.0)
    with pytest.raises(InvalidRequestError, match="request_id"):
        door.preparing.add(shown(), 0.0)
    assert door.refused == ["r"]
    assert door.preparer.begun == ["r"]


def test_close_refuses_all_that_wait():
    door = Door()
    futures = [door.preparing.add(shown(name), 0.0) for name in "ab"]
    door.preparing.close(NotServingError("stopped"))
    assert all(isinstance(f.exception(0), NotServingError) for f in futures)
    assert not door.preparing.is_busy


def test_model_without_vision_refuses_images_by_name():
    door = Door(NoImages())
    with pytest.raises(InvalidRequestError, match=r"^images: "):
        door.preparing.add(shown(), 0.0)
    assert door.refused == ["r"]
