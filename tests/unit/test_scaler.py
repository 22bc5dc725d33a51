"""The autoscaler's loop over a cluster that is made up: what it does, and in which order."""

import asyncio
import itertools
from dataclasses import replace

import pytest

from cluster.control.conductor import ChangeRefusedError
from cluster.control.events import EventLog
from cluster.control.metrics import ControlMetrics, ScalerMetrics
from cluster.control.scaler import Scaler
from cluster.control.scaling_plan import ScalingPlan
from cluster.planning.decision import Action, Measured
from cluster.planning.enumerate import candidates
from cluster.planning.limits import Constraint
from cluster.planning.load import Objectives
from cluster.planning.observed import Observed
from cluster.planning.planner import Planner
from cluster.planning.predict import predict
from cluster.planning.refresh import ObservedSteps
from cluster.planning.scaler_config import ScalerConfig
from cluster.planning.step import StepWork, step_parts
from galerne.errors import GalerneError
from galerne.topology import LinkTransport
from helpers.planning import SHAPE, create_calibration, create_cluster, create_load
from helpers.waiting import until

CALIBRATION = create_calibration()
SETTLED = (1.0, 100)


class World:
    """Implements ``ScaledCluster`` and ``NodeSource``; says what was done, in order."""

    def __init__(self, current, num_nodes=1, nodes=1):
        self.shape = create_cluster(nodes)
        self.current, self.num_nodes = current, num_nodes
        self.num_pending = 0
        self.is_changing, self.away = False, ()
        self.done = []
        self.load, self.waiting, self.idle_s = create_load(0.0), 0, 0.0
        self.steps = None
        self.problem = None  # why a change is undone
        self.never_comes = False
        self.goes_on = None  # an event: a change ends only then

    def observe(self, now_s):
        return Observed(
            at_s=now_s,
            load=self.load,
            upper=self.load,
            recent_requests_per_s=self.load.requests_per_s,
            latest_requests_per_s=self.load.requests_per_s,
            waiting=self.waiting,
            running=0,
            idle_s=self.idle_s,
            ttft_p95_s=None,
            inter_token_p95_s=None,
            num_arrivals=100,
            is_settled=True,
        )

    def start_period(self):
        self.done.append("period")

    def measured(self):
        measured = Measured(
            seconds=100.0,
            load=self.load,
            requests_per_s=max(self.load.requests_per_s, 1.0),
            completion_s=1.0,
            ttft_p95_s=0.1,
            inter_token_p95_s=0.01,
        )
        return measured, SETTLED

    def take_steps(self):
        return self.steps

    async def change(self, target):
        await asyncio.sleep(0)
        if self.goes_on is not None:
            await self.goes_on.wait()
        if self.problem is not None:
            raise self.problem
        self.current = target
        self.done.append("change")

    def sleep(self):
        self.current = None
        self.done.append("sleep")

    def ask(self, gateway_nodes, shard_nodes):
        self.done.append(f"ask {gateway_nodes}+{shard_nodes}")
        missing = max(0, gateway_nodes + shard_nodes - self.num_nodes)
        self.num_pending = missing if self.never_comes else 0
        if not self.never_comes:
            self.num_nodes += missing

    def give_up(self):
        self.num_pending = 0
        self.done.append("give up")


class Clock:
    now_s = 1000.0

    def __call__(self):
        return self.now_s


def all_candidates(nodes=1):
    return candidates(SHAPE, create_cluster(nodes), Objectives())


def best_at(rate, nodes=1):
    """By completion alone."""
    load = create_load(rate)
    return min(
        all_candidates(nodes), key=lambda c: predict(SHAPE, CALIBRATION, c, load).completion_s
    )


def worst_at(rate, nodes=1):
    load = create_load(rate)
    found = ((predict(SHAPE, CALIBRATION, c, load).completion_s, c) for c in all_candidates(nodes))
    return max((pair for pair in found if pair[0] < float("inf")), key=lambda pair: pair[0])[1]


def create_scaler(world, *, is_auto=True, objectives=None, **config):
    plan = ScalingPlan(
        planner=Planner(
            shape=SHAPE, calibration=CALIBRATION, objectives=objectives or Objectives()
        ),
        config=ScalerConfig(**config),
        cluster=world.shape,
        tick_s=0.01,
    )
    clock, metrics = Clock(), ControlMetrics()
    scaler = Scaler(
        *(plan, world, world, EventLog(), ScalerMetrics(metrics.set)),
        is_auto=is_auto,
        now_s=clock,
    )
    scaler.clock, scaler.registry = clock, metrics
    return scaler


async def settle(scaler):
    """Until no change is in flight."""
    await until(lambda: scaler._memory.change is None)


async def test_what_is_not_worth_its_cost_is_left_for_something_better():
    world = World(worst_at(1.0))
    world.load = create_load(1.0)
    scaler = create_scaler(world)
    await scaler.turn()
    await settle(scaler)
    assert scaler.latest.action is Action.CHANGE
    assert world.current == scaler.latest.target != worst_at(1.0)
    assert world.done.index("change") < world.done.index("period")
    await scaler.turn()
    assert scaler.latest.action is Action.HOLD
    assert [number for number, _, _ in scaler.ledger.records] == [1]


async def test_it_only_advises_while_a_person_has_the_choice():
    world = World(worst_at(1.0))
    world.load = create_load(1.0)
    scaler = create_scaler(world, is_auto=False)
    for _ in range(3):
        await scaler.turn()
    assert scaler.latest.action is Action.CHANGE
    assert not world.done
    assert not scaler.ledger.records


@pytest.mark.parametrize("is_auto", [True, False])
async def test_a_load_is_remembered_and_forgotten_in_time_while_nothing_is_changed(is_auto):
    world = World(best_at(9.0))
    scaler = create_scaler(world, is_auto=is_auto, hold_s=60.0)
    scaler.clock.now_s -= 1
    for pause_s, rate, busiest in ((1, 9.0, 9.0), (50, 1.0, 9.0), (20, 1.0, 1.0)):
        scaler.clock.now_s += pause_s
        world.load = create_load(rate)
        await scaler.turn()
        await settle(scaler)
        assert scaler._memory.busiest.requests_per_s == busiest


async def test_nobody_elses_change_is_disturbed():
    world = World(worst_at(1.0))
    world.load, world.is_changing = create_load(1.0), True
    scaler = create_scaler(world)
    await scaler.turn()
    assert scaler.latest is None
    assert world.done == ["period"]  # what is measured from then on is of what they chose


@pytest.mark.parametrize("problem", [GalerneError("no room"), ValueError("no room")])
async def test_a_change_that_fails_is_told_and_not_repeated_at_once(problem):
    world = World(worst_at(1.0))
    world.load, world.problem = create_load(1.0), problem
    scaler = create_scaler(world)
    await scaler.turn()
    await settle(scaler)
    assert world.current == worst_at(1.0)
    failed = [e for e in scaler._events.after(0) if e.kind == "autoscaler_failed"]
    assert len(failed) == 1
    assert "no room" in failed[0].text
    scaler.clock.now_s += 1
    await scaler.turn()
    assert scaler.latest.action is Action.HOLD  # cools down first


async def test_a_change_waits_for_a_part_that_is_away_and_no_longer():
    world = World(worst_at(1.0))
    world.load, world.problem = create_load(1.0), ChangeRefusedError("shard-1 must come back first")
    scaler = create_scaler(world)
    await scaler.turn()
    world.away = ("shard-1",)  # lost since the decision
    await settle(scaler)
    assert [e.kind for e in scaler._events.after(0)] == ["autoscaler", "autoscaler_failed"]
    for _ in range(3):
        await scaler.turn()
        assert (scaler.latest.action, scaler.latest.binding) == (Action.HOLD, Constraint.AWAY)
        assert "shard-1 must come back first" in scaler.latest.reason
    world.away, world.problem = (), None
    await scaler.turn()  # at the same second: nothing has to cool down
    await settle(scaler)
    assert world.current == scaler.latest.target != worst_at(1.0)
    assert [number for number, _, _ in scaler.ledger.records] == [1, 2]


async def test_an_idle_cluster_goes_to_zero_and_a_waiting_request_brings_it_back():
    """Complaint: planners that never scale to zero, or do not come back."""
    world = World(best_at(1.0))
    world.idle_s = 100.0
    scaler = create_scaler(world, idle_to_zero_s=60.0)
    await scaler.turn()
    await settle(scaler)
    assert world.current is None
    assert "sleep" in world.done
    assert world.done[-1] == "give up"  # nothing is asked for any more
    world.waiting, world.idle_s = 1, 0.0
    scaler.clock.now_s += 0.1  # no cool-down holds it
    task = asyncio.create_task(scaler.run())
    scaler.wake()
    await until(lambda: world.current is not None)
    task.cancel()


async def test_machines_that_do_not_come_are_given_up_and_what_served_serves_on():
    """Complaint: planners that hang on a pending pod."""
    heavy = predict(SHAPE, CALIBRATION, best_at(1.0), create_load(1.0)).max_requests_per_s * 2
    world = World(best_at(1.0), nodes=4)
    world.load, world.never_comes = create_load(heavy), True
    before = world.current
    scaler = create_scaler(world, pending_timeout_s=30.0, remember_s=300.0)
    await scaler.turn()
    await asyncio.sleep(0)
    assert scaler.latest.action is Action.CHANGE
    assert world.num_pending > 0
    scaler.clock.now_s += 31
    await scaler.turn()
    assert scaler.latest.action is Action.GIVE_UP
    await until(lambda: "give up" in world.done)
    await settle(scaler)
    assert "change" not in world.done
    assert world.current == before
    assert scaler._memory.change is None
    scaler.clock.now_s += 31
    await scaler.turn()  # what fits on the machines there are may still be taken
    assert (
        scaler.latest.target is None
        or sum((scaler.latest.target.gateway_nodes, scaler.latest.target.shard_nodes))
        <= world.num_nodes
    )


async def test_a_change_that_has_begun_is_not_given_up_when_a_machine_is_lost_meanwhile():
    """Cut off in the middle, half the parts would be of one topology and half of the other."""
    world = World(worst_at(1.0))
    world.load, world.goes_on = create_load(1.0), asyncio.Event()
    scaler = create_scaler(world, pending_timeout_s=30.0)
    await scaler.turn()
    await until(lambda: any(done.startswith("ask") for done in world.done))
    await asyncio.sleep(0.05)  # the change itself goes on
    world.num_pending = 1
    scaler.clock.now_s += 31
    await scaler.turn()
    assert scaler.latest.action is Action.HOLD
    world.goes_on.set()
    await settle(scaler)
    assert "change" in world.done


@pytest.mark.parametrize(("nodes", "asked"), [(2, "ask 2+0"), (3, "ask 2+1")])
async def test_no_more_machines_are_asked_for_than_there_can_ever_be(nodes, asked):
    """Else the change waits in vain, is given up, and is decided for again."""
    apart = next(c for c in all_candidates(3) if (c.gateway_nodes, c.shard_nodes) == (1, 1))
    spread = next(c for c in all_candidates(3) if (c.gateway_nodes, c.shard_nodes) == (2, 0))
    world = World(apart, num_nodes=nodes, nodes=nodes)
    await create_scaler(world)._until_nodes(spread)
    assert world.done == [asked]


async def test_a_change_that_fails_again_and_again_is_tried_less_and_less():
    world = World(best_at(1.0))
    heavy = predict(SHAPE, CALIBRATION, world.current, create_load(1.0)).max_requests_per_s * 2
    world.load, world.problem = create_load(heavy), GalerneError("no room")
    world.waiting = 100
    scaler = create_scaler(world, objectives=Objectives(ttft_p95_s=1.0), settle_s=10.0)
    tried_s = []
    for _ in range(600):
        num_before = len(scaler.ledger.records)
        await scaler.turn()
        await settle(scaler)
        if len(scaler.ledger.records) > num_before:
            tried_s.append(scaler.clock.now_s)
        scaler.clock.now_s += 5.0
    pauses_s = [after - before for before, after in itertools.pairwise(tried_s)]
    assert pauses_s[:4] == [20.0, 40.0, 80.0, 160.0]
    assert max(pauses_s) <= ScalerConfig().remember_s
    assert "changes failed" in scaler.latest.reason
    world.problem = None
    scaler.clock.now_s += 1000.0
    await scaler.turn()
    await settle(scaler)
    assert scaler._memory.num_failed == 0


@pytest.mark.parametrize("is_auto", [True, False])
async def test_a_topology_that_was_never_calibrated_ends_no_loop_and_is_told_once(is_auto):
    """The controller ends with its loops, and would start again only to end again."""
    world = World(replace(best_at(1.0), transport=LinkTransport.NCCL, shards=2, gateway_nodes=1))
    world.load = create_load(1.0)
    scaler = create_scaler(world, is_auto=is_auto)
    task = asyncio.create_task(scaler.run())
    await until(lambda: scaler.turns >= 3 or task.done())
    assert not task.done()
    told = [e.text for e in scaler._events.after(0)]
    assert told == ["nothing can be decided: the calibration has no link nccl"]
    world.current = worst_at(1.0)  # somebody chooses another
    await until(lambda: scaler.latest is not None)
    task.cancel()


async def test_a_decision_has_its_outcome_and_regret_when_the_next_one_is_carried_out():
    world = World(worst_at(1.0))
    world.load = create_load(1.0)
    scaler = create_scaler(world, cool_down_s=0.0)
    await scaler.turn()
    await settle(scaler)
    world.current = replace(worst_at(1.0))  # as if it had turned out so
    scaler.clock.now_s += 1000
    await scaler.turn()
    await settle(scaler)
    (_, _, first), _ = scaler.ledger.records
    assert first.outcome is not None
    assert first.outcome.regret >= 0
    assert scaler.ledger.calibration_error is not None
    assert b"galerne_autoscaler_regret" in scaler.registry.text()


async def test_every_turn_is_counted_and_told_as_a_metric():
    world = World(best_at(1.0))
    scaler = create_scaler(world)
    task = asyncio.create_task(scaler.run())
    await until(lambda: scaler.turns >= 3)
    task.cancel()
    assert b"galerne_autoscaler_decisions_total" in scaler.registry.text()


async def test_costs_follow_what_gateways_measure_a_little_a_minute():
    world = World(best_at(1.0))
    scaler = create_scaler(world)
    before = scaler.autoscaler.planner.calibration
    work = StepWork(num_decoding=4.0, context=100.0)
    parts = step_parts(SHAPE, before, world.current, work)
    model_s = 200 * 2 * sum(parts.values())  # twice what was predicted
    world.steps = ObservedSteps(
        candidate=world.current,
        work=work,
        num_steps=200,
        seconds_by_part={"head": 200 * 2 * parts["head"], "model": model_s},
    )
    await scaler.turn()
    assert scaler.autoscaler.planner.calibration is before  # not every turn
    scaler.clock.now_s += 61
    await scaler.turn()
    after = scaler.autoscaler.planner.calibration
    ratio = after.gateway.head.seconds(4) / before.gateway.head.seconds(4)
    assert ratio == pytest.approx(2**0.1)
