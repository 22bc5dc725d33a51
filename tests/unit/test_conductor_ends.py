"""How a change of topology ends where it is cut off, or a part never does what it is told."""

import asyncio

import pytest

from cluster.config import load_config
from cluster.control.conductor import (
    ChangeAbortedError,
    ChangeConfig,
    Stage,
    TopologyConductor,
)
from cluster.control.events import EventLog
from cluster.control.part_client import PartFailedError
from cluster.control.ports import GatewayState
from cluster.control.target import next_topology
from cluster.presets import PresetInputs, build_topology
from helpers.waiting import until
from router.api.cluster_port import TopologyWish

INPUTS = PresetInputs(
    config=load_config(None, {"shards": 2}), num_layers=2, num_experts=8, num_cores=4, num_nodes=1
)
OLD = build_topology(INPUTS)
_, NEW = next_topology(OLD, INPUTS, TopologyWish(replicas=2), OLD.parts)


class Parts:
    """Implements ``PartCalls`` and ``Registry``: what is asked succeeds unless told not to."""

    def __init__(self):
        self.asked = []
        self.hangs_at, self.error_at = "", {}
        self.hung = asyncio.Event()

    def __getattr__(self, name):
        async def call(part, *arguments):
            self.asked.append((name, part))
            if name == self.hangs_at:
                self.hung.set()
                await asyncio.Event().wait()
            if name in self.error_at:
                raise self.error_at[name]
            return GatewayState(NEW, 0) if name == "state_of" else 0

        return call

    def is_live(self, part):
        return True

    def failure_of(self, part):
        return None

    def epochs_of(self, part):
        return ()


def create_conductor(parts, **config):
    return TopologyConductor(OLD, parts, parts, EventLog(), ChangeConfig(**config))


@pytest.mark.parametrize("hangs_at", ["prepare_epoch", "prepare_topology", "shadow"])
async def test_a_change_that_is_cancelled_is_undone_and_another_can_begin(hangs_at):
    parts = Parts()
    parts.hangs_at = hangs_at
    conductor = create_conductor(parts)
    changing = asyncio.create_task(conductor.change(NEW))
    await parts.hung.wait()
    changing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await changing
    assert (conductor.stage, conductor.target, conductor.current) == (Stage.IDLE, None, OLD)
    assert ("abort", "gateway-0") in parts.asked
    assert "given up" in conductor.last_error
    assert set(conductor.wanted) == set(OLD.parts)
    parts.hangs_at = ""
    await conductor.change(NEW)
    assert conductor.current == NEW


async def test_a_change_that_is_cancelled_while_it_waits_for_its_turn_is_forgotten():
    conductor = create_conductor(Parts())
    async with conductor.lock:  # somebody brings a part into line
        changing = asyncio.create_task(conductor.change(NEW))
        await until(lambda: conductor.stage is Stage.STARTING)
        changing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await changing
    assert (conductor.stage, conductor.target) == (Stage.IDLE, None)


@pytest.mark.parametrize("error", [PartFailedError("shard-0", "x", "no"), RuntimeError("bug")])
async def test_whatever_error_ends_a_change_another_can_begin(error):
    parts = Parts()
    parts.error_at = {"shadow": error}
    conductor = create_conductor(parts)
    with pytest.raises((ChangeAbortedError, RuntimeError)):
        await conductor.change(NEW)
    assert (conductor.stage, conductor.target) == (Stage.IDLE, None)
    assert ("abort", "gateway-0") in parts.asked
    parts.error_at = {}
    await conductor.change(NEW)


async def test_a_shard_that_lives_and_never_retires_the_old_epoch_holds_up_no_later_change():
    parts = Parts()
    parts.error_at = {"retire_epochs": PartFailedError("shard-0", "RetireEpochs", "INTERNAL: no")}
    conductor = create_conductor(parts, prepare_s=0.2)
    async with asyncio.timeout(10):
        await conductor.change(NEW)
    assert (conductor.stage, conductor.current) == (Stage.IDLE, NEW)
