"""The controller's change of topology over real shards and gateways, while streams run."""

import asyncio
import contextlib
import itertools
import time

import pytest

from cluster.control.conductor import (
    ChangeAbortedError,
    ChangeConfig,
    ChangeRefusedError,
    Stage,
    TopologyConductor,
)
from cluster.control.events import EventLog
from cluster.control.health import HealthBook, HealthConfig
from cluster.control.keeper import ExpertKeeper
from cluster.control.members import Heartbeat, MemberBook
from cluster.control.part_client import PartClients
from cluster.control.straighten import Straightener
from galerne.topology import LinkTransport
from helpers.gateway_process import TOKEN
from helpers.gateways import request
from helpers.switchable import ShardBook, shape, start_gateway
from helpers.waiting import PATIENCE_S
from router.gateway.pool import GatewayPool
from router.gateway.roster import Roster

LOCAL, SHM, GRPC = LinkTransport.LOCAL, LinkTransport.SHM, LinkTransport.GRPC
THREE = ("shard-0", "shard-1", "shard-2")
SAMPLED = {"temperature": 0.8, "seed": 5, "max_tokens": 120, "repetition_penalty": 1.3}
BOUNDED = ChangeConfig(start_s=60.0, prepare_s=60.0, link_s=20.0, commit_s=20.0, drain_s=20.0)
SETTLE = HealthConfig(release_s=0.5)


class SmallCluster:
    """Controller, driver and parts in this process."""

    def __init__(self, first):
        self.book = ShardBook()
        self.gateways = {}
        self.members, self.events, self.health = MemberBook(), EventLog(), HealthBook()
        self.calls = PartClients(TOKEN, self.members.address_of)
        self.conductor = TopologyConductor(first, self.calls, self.members, self.events, BOUNDED)
        self.keeper = ExpertKeeper(
            lambda: self.conductor.current, self.health, self.calls, self.events, SETTLE
        )
        self.straightener = Straightener(self.conductor, self.calls, self.members, self.events)
        self.cannot_start = set()
        self.demanded = []  # what frontends said that they hold

    async def roster(self, *, with_metrics=False):
        wanted = self.conductor.current.gateways
        live = {g: self.gateways[g].address for g in wanted if g in self.gateways}
        live = {} if self.conductor.is_asleep else live
        is_paused = self.conductor.is_asleep or self.conductor.is_waking
        return Roster(gateways=live, pause="asleep" if is_paused and not live else "")

    async def demand(self, num_held):
        self.demanded.append(num_held)

    async def drive(self):
        """What the driver and the parts' reporters do."""
        while True:
            await asyncio.to_thread(self.follow)
            self.report()
            await asyncio.sleep(0.02)

    def follow(self):
        wanted = self.conductor.wanted
        for part, topology in wanted.items():
            if part in self.cannot_start:
                self.members.failed(part, "no room")
            elif part in topology.shard_processes:
                self.book.start(topology, only=[part])
            elif part not in self.gateways:
                self.gateways[part] = start_gateway(topology, self.book, gateway_id=part)
        for part in [*self.book.hosts, *self.gateways]:
            if part not in wanted:
                self.end(part)

    def end(self, part):
        if part in self.gateways:
            self.gateways.pop(part).stop()
        else:
            self.book.stop(part)
        self.members.forget(part)

    def report(self):
        for part, host in [*self.book.hosts.items(), *self.gateways.items()]:
            is_gateway = part in self.gateways
            epochs = (host.switch.topology.epoch,) if is_gateway else host.epochs
            told = Heartbeat(part=part, address=host.address, pid=id(host), node="n", epochs=epochs)
            self.members.hear(told)
            if is_gateway and self.health.observe(part, host.links, time.monotonic()):
                self.keeper.wake()


@contextlib.asynccontextmanager
async def small_cluster(first):
    made = SmallCluster(first)
    await asyncio.to_thread(made.follow)
    made.report()
    tasks = [
        asyncio.create_task(loop)
        for loop in (made.drive(), made.keeper.run(), made.straightener.run())
    ]
    made.pool = GatewayPool(made, TOKEN)
    await made.pool.start(60.0)
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await made.pool.close()
        await made.calls.close()
        for part in [*made.gateways, *made.book.hosts]:
            await asyncio.to_thread(made.end, part)


async def answer(pool, request_id):
    got = []
    async for delta in pool.submit(request(request_id, **SAMPLED)):
        assert delta.offset == len(got)
        assert not delta.error
        got += delta.token_ids
    return got


@contextlib.asynccontextmanager
async def load(pool, want):
    """Streams, two at a time, that must all be alike."""
    numbers = itertools.count()
    is_over = asyncio.Event()
    answers = []

    async def client():
        while not is_over.is_set():
            answers.append(await answer(pool, f"load-{next(numbers)}"))

    tasks = [asyncio.create_task(client()) for _ in range(2)]
    yield answers
    is_over.set()
    await asyncio.gather(*tasks)
    assert all(tokens == want for tokens in answers)


async def until(condition, what):
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


async def test_shards_gateways_copies_and_modes_come_and_go_under_load():
    async with small_cluster(shape(1, GRPC, THREE)) as cluster:
        want = await answer(cluster.pool, "first")
        async with load(cluster.pool, want) as answers:
            for target in (
                shape(2, SHM, (*THREE, "shard-3"), replicas=2, gateways=("gateway-0", "gateway-1")),
                shape(3, GRPC, ("shard-1", "shard-3"), gateways=("gateway-1",)),
                shape(4, LOCAL, gateways=("gateway-1",)),
                shape(5, SHM, ("shard-5", "shard-6", "shard-7"), gateways=("gateway-1",)),
            ):
                before = len(answers)
                await cluster.conductor.change(target)
                assert cluster.conductor.stage is Stage.IDLE
                await until(lambda before=before: len(answers) > before + 2, "more answers")
                assert {*cluster.book.hosts, *cluster.gateways} >= set(target.parts)
                for shard in target.shard_processes:  # others may be about to end
                    assert target.epoch in cluster.book.hosts[shard].epochs
                for gateway in target.gateways:
                    assert cluster.gateways[gateway].switch.topology == target
        await until(
            lambda: {*cluster.book.hosts, *cluster.gateways} == set(target.parts),
            "the end of others",
        )
        held = sum(len(host._bank) for host in cluster.book.hosts.values())
        assert held == sum(len(layer) for layer in target.placement.by_layer)


async def test_a_part_that_cannot_start_undoes_the_change_and_another_is_refused_meanwhile():
    async with small_cluster(shape(1, GRPC, THREE)) as cluster:
        want = await answer(cluster.pool, "first")
        async with load(cluster.pool, want):
            cluster.cannot_start = {"shard-9"}
            target = shape(2, GRPC, (*THREE, "shard-9"))
            change = asyncio.create_task(cluster.conductor.change(target))
            await asyncio.sleep(0)
            with pytest.raises(ChangeRefusedError, match="to epoch 2 is starting; one at a time"):
                await cluster.conductor.change(shape(3, LOCAL))
            with pytest.raises(ChangeAbortedError, match="while starting: shard-9: start: no room"):
                await change
        assert cluster.conductor.current.epoch == 1
        assert "shard-9" not in cluster.conductor.wanted
        for shard in THREE:
            assert set(cluster.book.hosts[shard].epochs) == {1}
        await cluster.conductor.change(shape(3, LOCAL))


async def test_a_shard_lost_before_the_commit_undoes_the_change_and_its_experts_are_adopted():
    async with small_cluster(shape(1, GRPC, THREE)) as cluster:
        want = await answer(cluster.pool, "first")
        async with load(cluster.pool, want) as answers:
            cluster.cannot_start = {"shard-1"}  # not again, once it is gone
            target = shape(2, GRPC, (*THREE, "shard-3"))
            await asyncio.to_thread(cluster.end, "shard-1")
            cluster.members.hear(
                Heartbeat(part="shard-1", address="127.0.0.1:9", pid=1, node="n", epochs=(1,))
            )  # nobody knows yet
            with pytest.raises(ChangeAbortedError):
                await cluster.conductor.change(target)
            before = len(answers)
            await until(lambda: len(answers) > before + 2, "answers by adopters")

        def kinds():
            return {event.kind for event in cluster.events.after(0)}

        await until(lambda: kinds() >= {"shard_lost", "experts_adopted"}, "the events")
        cluster.members.forget("shard-1")
        with pytest.raises(ChangeRefusedError, match="shard-1 must come back first"):
            await cluster.conductor.change(target)


async def test_a_shard_that_is_back_gets_its_rows_again_and_adopted_experts_are_released():
    async with small_cluster(shape(1, GRPC, THREE)) as cluster:
        want = await answer(cluster.pool, "first")
        async with load(cluster.pool, want) as answers:
            await asyncio.to_thread(cluster.book.stop, "shard-1")  # the driver starts it again
            await until(lambda: "shard-1" in cluster.book.hosts, "its return")
            before = len(answers)
            await until(lambda: len(answers) > before + 1, "answers")
        await until(
            lambda: (
                all(len(h._bank) == len(h._bank.resident) for h in cluster.book.hosts.values())
                and not any(h._server._control.adopted for h in cluster.book.hosts.values())
            ),
            "the release",
        )


async def test_a_part_that_missed_a_change_is_brought_into_the_topology_that_serves():
    async with small_cluster(shape(1, GRPC, THREE)) as cluster:
        want = await answer(cluster.pool, "first")
        cluster.conductor.current = shape(2, GRPC, THREE)  # as after a controller's restart
        await until(lambda: cluster.gateways["gateway-0"].switch.topology.epoch == 2, "the gateway")
        hosts = cluster.book.hosts.values()
        await until(lambda: all(set(host.epochs) == {2} for host in hosts), "the shards")
        assert await answer(cluster.pool, "again") == want


async def test_requests_that_come_while_it_sleeps_wait_and_wake_it_and_lose_nothing():
    async with small_cluster(shape(1, GRPC, THREE)) as cluster:
        want = await answer(cluster.pool, "first")
        cluster.conductor.sleep()
        await until(lambda: not cluster.gateways and not cluster.book.hosts, "the end of all parts")
        await until(lambda: not cluster.pool._members, "the frontend to know")
        assert await cluster.pool.unready_reason() is None
        answers = [asyncio.create_task(answer(cluster.pool, f"held-{n}")) for n in range(3)]
        await until(lambda: 3 in cluster.demanded, "the frontend to say what it holds")
        target = shape(2, SHM, ("shard-3", "shard-4"), gateways=("gateway-1",))
        await cluster.conductor.change(target)
        assert await asyncio.gather(*answers) == [want] * 3
        assert set(cluster.gateways) == {"gateway-1"}
        assert [event.kind for event in cluster.events.after(0)].count("woken") == 1


async def test_a_stream_that_meets_the_end_of_its_gateway_at_zero_goes_on_after_the_wake():
    async with small_cluster(shape(1, LOCAL)) as cluster:
        want = await answer(cluster.pool, "first")
        late = asyncio.create_task(answer(cluster.pool, "late"))
        await until(lambda: cluster.pool._owner, "its first step")
        cluster.conductor.sleep()
        await until(lambda: cluster.demanded or late.done(), "the frontend to hold it")
        await cluster.conductor.change(shape(2, LOCAL, gateways=("gateway-1",)))
        assert await late == want


async def test_a_cluster_that_changes_does_not_go_to_sleep():
    async with small_cluster(shape(1, LOCAL)) as cluster:
        change = asyncio.create_task(cluster.conductor.change(shape(2, GRPC, THREE)))
        await asyncio.sleep(0)
        with pytest.raises(ChangeRefusedError, match="to epoch 2 is starting"):
            cluster.conductor.sleep()
        await change
