"""The controller loads adapters into shards, then gateways, and makes good what is missing."""

import asyncio

import pytest

from cluster.control.adapters import AdapterKeeper
from cluster.control.events import EventLog
from cluster.control.members import Heartbeat, MemberBook
from cluster.control.part_client import PartFailedError
from galerne.adapters import AdapterInfo
from galerne.errors import ConfigError, InvalidRequestError, NotServingError

PARTS = ("gateway-0", "gateway-1", "shard-0", "shard-1")


class FakeParts:
    """Parts that hold what they are told; some refuse."""

    def __init__(self):
        self.calls, self.refusals, self.ids = [], {}, {}
        self.holds = {part: set() for part in PARTS}

    async def load_adapter(self, part, wanted, timeout_s):
        self.calls.append(("load", part))
        self._refuse(part, "LoadAdapter")
        adapter_id = self.ids.get(part, "ab" * 8)
        self.holds[part].add(adapter_id)
        return AdapterInfo(
            name=wanted.name, directory=wanted.directory, id=adapter_id, rank=8, num_bytes=5
        )

    async def unload_adapter(self, part, adapter_id, deadline_s, timeout_s):
        self.calls.append(("unload", part))
        self._refuse(part, "UnloadAdapter")
        self.holds[part].discard(adapter_id)

    def _refuse(self, part, what):
        reason = self.refusals.get((part, what))
        if reason is not None:
            raise PartFailedError(part, what, reason)


class World:
    def __init__(self):
        self.now_s = 0.0
        self.parts = FakeParts()
        self.members = MemberBook(lambda: self.now_s)
        self.events = EventLog(lambda kind, part: None)
        self.keeper = AdapterKeeper(
            lambda: PARTS, self.members, self.parts, self.events, "mistral-small-4"
        )
        for part in PARTS:
            self.beat(part)

    def beat(self, part, pid=1):
        held = frozenset(self.parts.holds[part])
        self.members.hear(Heartbeat(part=part, address="a", pid=pid, node="n", adapters=held))

    def restart(self, part, pid):
        self.parts.holds[part] = set()
        self.beat(part, pid)

    @property
    def listed(self):
        return [info.name for info in self.keeper.listed]


async def test_shards_have_an_adapter_before_gateways_and_clients_after_both():
    world = World()
    assert world.listed == []
    info = await world.keeper.load("sql", "")
    assert (info.name, info.directory, info.id, info.rank) == ("sql", "sql", "ab" * 8, 8)
    assert [part.partition("-")[0] for _, part in world.parts.calls] == [
        *("shard", "shard"),
        *("gateway", "gateway"),
    ]
    assert world.listed == ["sql"]  # though no heartbeat has said so yet
    assert await world.keeper.load("sql", "sql") == info  # may be repeated
    assert world.keeper.loaded == (info,)


async def test_a_refusal_undoes_what_was_loaded_and_names_part_and_reason():
    world = World()
    world.parts.refusals["gateway-1", "LoadAdapter"] = "FAILED_PRECONDITION: x: expected A, found B"
    with pytest.raises(InvalidRequestError, match="lora_path: gateway-1: x: expected A, found B"):
        await world.keeper.load("sql", "")
    assert all(not held for held in world.parts.holds.values())
    assert world.keeper.loaded == ()
    world.parts.refusals["gateway-1", "LoadAdapter"] = "UNAVAILABLE: gone"
    with pytest.raises(NotServingError):
        await world.keeper.load("sql", "")


async def test_other_files_on_one_node_are_refused():
    world = World()
    world.parts.ids["shard-1"] = "cd" * 8
    with pytest.raises(InvalidRequestError, match="shard-1 has other files"):
        await world.keeper.load("sql", "")


@pytest.mark.parametrize(
    ("name", "directory"),
    [("../x", ""), ("a", "../b"), ("a", "/b"), ("", ""), ("mistral-small-4", "x")],
)
async def test_names_that_cannot_be_used_reach_no_part(name, directory):
    world = World()
    with pytest.raises(InvalidRequestError, match="lora_"):
        await world.keeper.load(name, directory)
    assert world.parts.calls == []


async def test_a_name_stays_with_its_directory_until_it_is_unloaded():
    world = World()
    await world.keeper.load("sql", "one")
    with pytest.raises(InvalidRequestError, match="unload it first"):
        await world.keeper.load("sql", "two")


async def test_unloading_goes_by_gateways_first_and_only_with_the_last_name():
    world = World()
    await world.keeper.load("one", "same")
    await world.keeper.load("two", "same")
    world.parts.calls.clear()
    await world.keeper.unload("one", 1.0)
    assert world.parts.calls == []
    assert world.listed == ["two"]
    await world.keeper.unload("two", 1.0)
    assert [part for _, part in world.parts.calls] == list(PARTS)
    assert world.keeper.loaded == ()
    with pytest.raises(InvalidRequestError, match="no adapter 'two'"):
        await world.keeper.unload("two", 1.0)


async def test_an_adapter_in_use_stays_and_is_given_back_to_who_has_dropped_it():
    world = World()
    await world.keeper.load("sql", "")
    world.parts.refusals["gateway-1", "UnloadAdapter"] = "FAILED_PRECONDITION: 1 requests still"
    with pytest.raises(ConfigError, match="1 requests still"):
        await world.keeper.unload("sql", 1.0)
    for part in PARTS:
        world.beat(part)
    assert world.listed == []  # gateway-0 lacks it
    await world.keeper._mend()
    assert world.listed == ["sql"]
    assert all(world.parts.holds.values())


async def test_a_part_that_was_started_without_an_adapter_gets_it_from_the_loop():
    world = World()
    await world.keeper.load("sql", "")
    world.restart("gateway-0", pid=2)
    world.restart("shard-1", pid=3)
    assert world.listed == []
    loop = asyncio.create_task(world.keeper.run())
    try:
        async with asyncio.timeout(60):
            while world.listed != ["sql"] or not world.parts.holds["shard-1"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        loop.cancel()
    assert world.keeper.turns > 0


async def test_a_restarted_controller_knows_what_the_driver_kept():
    world = World()
    info = await world.keeper.load("sql", "")
    again = World()
    again.parts, again.keeper._calls = world.parts, world.parts
    again.keeper.restore((info,))
    for part in PARTS:
        again.members.hear(
            Heartbeat(part=part, address="a", pid=1, node="n", adapters=frozenset({info.id}))
        )
    assert again.listed == ["sql"]
    assert again.keeper.loaded == (info,)


async def test_a_part_that_ends_while_others_are_mended_ends_no_loop():
    world = World()
    await world.keeper.load("one", "")
    world.restart("shard-1", 2)
    world.restart("gateway-1", 2)
    mending = asyncio.create_task(world.keeper._mend())
    asyncio.get_running_loop().call_soon(world.members.forget, "shard-1")
    await mending
    assert world.parts.holds["gateway-1"]
