"""The loop that asks for nodes: what it makes of wishes, and of a Ray that does not answer."""

import asyncio
import threading
from contextlib import asynccontextmanager, suppress

import pytest

from cluster.control import node_requests
from cluster.control.events import EventLog
from cluster.control.node_requests import NodeRequests, Seen
from cluster.node_kinds import NodeKind
from cluster.nodes import Node, Role
from helpers.waiting import until

KINDS = [NodeKind(role=Role.SHARD, most=4, cores=1, memory_bytes=1e9)]


class FakeGroups:
    """Ray's groups, and nodes that come when the test says so. ``answers`` cleared: it hangs."""

    def __init__(self):
        self.nodes = [Node("head", 1.0, is_head=True)]
        self.roles_by_name = {}
        self.answers = threading.Event()
        self.answers.set()
        self.num_calls = 0

    def bring(self, count):
        self.nodes += [Node(f"node-{i}", 1.0, False, role=Role.SHARD) for i in range(count)]

    def look(self):
        self._called()
        return Seen(tuple(self.nodes), frozenset(self.roles_by_name))

    def create(self, name, roles):
        self._called()
        self.roles_by_name[name] = roles

    def remove(self, name):
        self._called()
        self.roles_by_name.pop(name, None)

    def _called(self):
        self.num_calls += 1
        assert self.answers.wait(20)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(node_requests, "TURN_S", 0.02)
    monkeypatch.setattr(node_requests, "_IDLE_TURN_S", 0.02)


@asynccontextmanager
async def running(groups):
    requests = NodeRequests("app", groups, KINDS, EventLog())
    loop = asyncio.create_task(requests.run())
    try:
        yield requests
    finally:
        groups.answers.set()
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop


async def turned(requests, times=2):
    """Wait for whole turns that began after now."""
    seen = requests.turns
    await until(lambda: requests.turns > seen + times)


async def test_nodes_are_pending_until_they_are_there_and_one_request_is_made_for_them():
    groups = FakeGroups()
    async with running(groups) as requests:
        requests.ask(1, 2)
        assert requests.num_pending > 0, "before anybody has looked"
        await until(lambda: groups.roles_by_name)
        requests.ask(1, 2)
        await turned(requests)
        assert list(groups.roles_by_name.values()) == [[None, Role.SHARD, Role.SHARD]]
        assert (requests.num_pending, requests.num_nodes) == (2, 1)
        groups.bring(2)
        await until(lambda: requests.num_pending == 0)
        assert requests.num_nodes == 3
        assert groups.roles_by_name, "it keeps them until the parts run"


async def test_a_request_that_is_given_up_is_removed_and_nothing_is_pending():
    groups = FakeGroups()
    async with running(groups) as requests:
        requests.ask(1, 2)
        await until(lambda: groups.roles_by_name)
        requests.give_up()
        assert requests.num_pending == 0
        await until(lambda: not groups.roles_by_name)


async def test_another_request_takes_the_place_of_the_first():
    groups = FakeGroups()
    async with running(groups) as requests:
        requests.ask(1, 2)
        await until(lambda: groups.roles_by_name)
        requests.ask(1, 1)
        wanted = [[None, Role.SHARD]]
        await until(lambda: list(groups.roles_by_name.values()) == wanted)


async def test_nobody_is_asked_where_present_nodes_suffice():
    groups = FakeGroups()
    async with running(groups) as requests:
        requests.ask(1, 0)
        await until(lambda: requests.num_pending == 0)
        await turned(requests)
        assert not groups.roles_by_name


async def test_what_an_earlier_controller_asked_for_is_removed():
    groups = FakeGroups()
    groups.roles_by_name["app-of-old"] = [None, Role.SHARD]
    async with running(groups) as requests:
        await until(lambda: not groups.roles_by_name)
        assert requests.num_pending == 0


async def test_a_ray_that_does_not_answer_gets_no_second_call_and_the_wish_is_not_lost(monkeypatch):
    monkeypatch.setattr(node_requests, "_CALL_TIMEOUT_S", 0.05)
    groups = FakeGroups()
    groups.answers.clear()
    async with running(groups) as requests:
        requests.ask(1, 2)
        await turned(requests, 3)
        assert groups.num_calls == 1
        assert requests.num_pending > 0
        groups.answers.set()
        await until(lambda: groups.roles_by_name)


async def test_a_request_given_up_while_ray_hangs_does_not_outlive_that(monkeypatch):
    groups = FakeGroups()
    async with running(groups) as requests:
        await until(lambda: requests.num_nodes)
        monkeypatch.setattr(node_requests, "_CALL_TIMEOUT_S", 0.05)
        groups.answers.clear()
        requests.ask(1, 2)
        await turned(requests)
        requests.give_up()
        assert requests.num_pending == 0
        num_calls = groups.num_calls
        groups.answers.set()
        await until(lambda: groups.num_calls > num_calls)  # the one that hung is over
        await until(lambda: not groups.roles_by_name)
        await turned(requests, 5)
        assert not groups.roles_by_name


async def test_fewer_than_no_nodes_are_refused():
    async with running(FakeGroups()) as requests:
        with pytest.raises(ValueError, match="at least 0"):
            requests.ask(1, -1)
