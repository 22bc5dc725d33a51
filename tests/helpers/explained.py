"""Decisions of the real autoscaler, and a controller that tells of them, for tests."""

import math
from dataclasses import replace

from cluster.control.explain import (
    NOT_CALIBRATED,
    NoAutoscalerError,
    ScalerView,
    asked,
    decisions,
    explain,
    find,
    what_if_facts,
)
from cluster.control.frontends import FrontendBook
from cluster.planning.decision import DecisionRecord, Measured, outcome_of
from cluster.planning.load import Objectives
from cluster.planning.planner import plan
from galerne.adapters import AdapterInfo
from galerne.errors import NotServingError
from helpers.planning import SHAPE, create_calibration, create_cluster
from helpers.scaling import (
    CANDIDATES,
    create_autoscaler,
    create_load,
    create_observed,
    create_state,
    predict,
)
from router.api.cluster_port import EventFacts, ExpertLoadFacts, ShardLoadFacts, TopologyFacts

STARTED_S = 1_700_000_000.0
OBJECTIVES = Objectives(ttft_p95_s=2.0, max_nodes=8)
FACTS = TopologyFacts(
    epoch=3, mode="latency", gateways=("gateway-0",), shards=("shard-1",), transport="shm"
)


def _autoscaler():
    return create_autoscaler(node_weight=1.0, cool_down_s=0)


def decide(rate, current=CANDIDATES[0], **observed):
    """What the autoscaler makes of a rate."""
    state = create_state(current=current, observed=create_observed(rate, **observed))
    return _autoscaler().decide(1000.0, replace(state, calibration_error=0.07))


def judged(decision, rate):
    """Its record with an outcome: everything came as predicted, but first tokens twice as late."""
    load = create_load(rate)
    gives = predict(decision.target, load)
    measured = Measured(
        seconds=60.0,
        load=load,
        requests_per_s=gives.requests_per_s,
        completion_s=gives.completion_s,
        ttft_p95_s=2 * gives.ttft_p95_s,
        inter_token_p95_s=gives.inter_token_p95_s,
    )
    autoscaler = _autoscaler()
    outcome = outcome_of(decision, measured, gives, lambda c: autoscaler.cost(c, load))
    assert math.isfinite(outcome.regret)
    return DecisionRecord(decision=decision, outcome=outcome)


class RecordedScaler:
    """Implements ``Explainable`` over decisions that the test has it make."""

    def __init__(self):
        self.records, self.questions = [], []
        self.observed, self.latest, self.mode = None, None, None

    def note(self, record):
        number = len(self.records) + 1
        self.records.append((number, STARTED_S + number, record))
        self.observed, self.latest = record.decision.observed, self.records[-1]

    def judge(self, number, rate):
        index, time_s, record = self.records[number - 1]
        self.records[number - 1] = (index, time_s, judged(record.decision, rate))

    def hold(self, decision):
        self.observed = decision.observed
        self.latest = (0, STARTED_S, DecisionRecord(decision=decision))

    def view(self):
        return ScalerView(
            mode=self.mode,
            objectives=OBJECTIVES,
            observed=self.observed,
            calibration_error=0.07,
            turned_s_ago=1.5,
            latest=self.latest,
        )

    def plan_for(self, load, objectives, mode, nodes):
        self.questions.append((load, objectives, mode, nodes))
        cluster = create_cluster(1 + nodes)
        return plan(SHAPE, create_calibration(), cluster, objectives, load, mode=mode)


EXPERTS = ExpertLoadFacts(
    window_s=60.0,
    rows=((0, 3, 40, 5), (12, 12, 0, 24)),
    balancedness=0.75,
    shards=(
        ShardLoadFacts(id="shard-1", rows=4000, rows_lately=72, busy=0.5),
        ShardLoadFacts(id="shard-2", rows=None, rows_lately=24, busy=0.0),
    ),
)


class FakeController:
    """Implements ``ClusterPort``; about decisions as the controller does."""

    def __init__(self, scaler=None):
        self.wishes, self.past, self.refusal, self.is_away = [], [], None, False
        self.scaler, self.num_listed = scaler, 0
        self.facts, self.load = FACTS, EXPERTS
        self.loaded, self.levels = [], []
        self.frontends = FrontendBook()

    async def frontend_news(self, frontend, news):
        if self.is_away:
            raise NotServingError("controller c gave no answer in 5.0 s")
        return self.frontends.hear(frontend, news)

    async def drain(self, order, deadline_s):
        if self.is_away:
            raise NotServingError("controller c gave no answer in 5.0 s")
        return self.frontends.drain(order, deadline_s)

    async def topology(self):
        if self.is_away:
            raise NotServingError("controller c gave no answer in 5.0 s")
        return self.facts

    async def expert_load(self):
        return self.load

    async def set_topology(self, wish):
        if self.refusal is not None:
            raise self.refusal
        self.wishes.append(wish)
        return FACTS

    async def adapters(self):
        return self.loaded

    async def load_adapter(self, name, directory):
        if self.refusal is not None:
            raise self.refusal
        info = AdapterInfo(name=name, directory=directory or name, id="ab" * 8, rank=4, num_bytes=9)
        self.loaded = [*self.loaded, info]
        return info

    async def unload_adapter(self, name, deadline_s):
        if self.refusal is not None:
            raise self.refusal
        self.deadline_s = deadline_s
        gone = next(info for info in self.loaded if info.name == name)
        self.loaded = [info for info in self.loaded if info is not gone]
        return gone

    async def set_log_level(self, level, part):
        if self.refusal is not None:
            raise self.refusal
        self.levels.append((part, level))
        return [part] if part else ["controller", "frontend", "gateway-0"]

    async def events(self, after):
        return [event for event in self.past if event.number > after]

    def happen(self, kind):
        number = len(self.past) + 1
        self.past.append(EventFacts(number=number, time_s=1.5, kind=kind, part="p", text="t"))

    async def explain(self, number=None):
        return explain(find(self._calibrated(), number))

    async def decisions(self, after):
        self.num_listed += 1
        return decisions(self._calibrated().records, after)

    async def what_if(self, question):
        scaler = self._calibrated()
        return what_if_facts(scaler.plan_for(*asked(question, scaler.view())))

    def _calibrated(self):
        if self.scaler is None:
            raise NoAutoscalerError(NOT_CALIBRATED)
        return self.scaler


def decided():
    """A scaler that went from one gateway to more, and back; only the first is judged."""
    scaler = RecordedScaler()
    up = decide(60.0)
    scaler.note(judged(up, 60.0))
    scaler.note(DecisionRecord(decision=decide(2.0, current=up.target)))
    return scaler
