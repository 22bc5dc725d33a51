"""The controller's part in log levels: who is told, who answered, and who is told later."""

import asyncio
import logging

import pytest

from cluster.control.log_levels import LogLevels
from galerne.errors import InvalidRequestError
from galerne.logs import OURS

LIVE = ["gateway-0", "shard-0"]


class Remote:
    """A handle of an actor, as Ray's, for one method."""

    def __init__(self, answers=True):
        self.levels, self.answers, self.set_log_level = [], answers, self

    async def remote(self, level):
        if not self.answers:
            raise RuntimeError("the actor died")
        self.levels.append(level)


@pytest.fixture
def book():
    made = LogLevels()
    made._actors = {"gateway-0": Remote(), "shard-0": Remote(), "shard-1": Remote(answers=False)}
    return made


async def test_all_are_told_and_those_that_answer_are_named(book):
    assert await book.set_log_level("debug", "") == ["controller", "server", "frontend", *LIVE]
    assert book._actors["gateway-0"].levels == ["debug"]
    assert all(logging.getLogger(name).level == logging.DEBUG for name in OURS)
    assert book.log_level_of("server") == "debug"


async def test_one_part_alone_is_told(book):
    assert await book.set_log_level("info", "shard-0") == ["shard-0"]
    assert book._actors["gateway-0"].levels == []
    assert await book.set_log_level("error", "server") == ["server"]
    assert (book.log_level_of("server"), book.log_level_of("gateway-0")) == ("error", None)


async def test_a_level_for_all_takes_the_place_of_those_of_parts(book):
    await book.set_log_level("info", "shard-0")
    await book.set_log_level("error", "")
    assert book.log_level_of("shard-0") == "error"


async def test_a_new_process_logs_as_its_predecessor(book):
    book._keep_log_level("shard-0", is_new=True)  # nothing was asked for
    await book.set_log_level("info", "shard-0")
    book._actors["shard-0"] = restarted = Remote()
    book._keep_log_level("shard-0", is_new=False)
    book._keep_log_level("shard-0", is_new=True)
    await asyncio.wait_for(book._telling, 60)
    assert restarted.levels == ["info"]


async def test_a_part_that_there_is_not_is_refused_by_name(book):
    with pytest.raises(
        InvalidRequestError, match="part: must be one of controller, frontend, gateway-0"
    ):
        await book.set_log_level("info", "shard-9")
