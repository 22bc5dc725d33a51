"""An exchange session, a clock moved by hand, and a check of everything that it sends."""

import numpy as np

from galerne.errors import GalerneError
from galerne.ids import Epoch, GatewayId, ShardId
from galerne.topology import LinkTransport, Mode, Topology, contiguous_placement
from router.exchange.deadline import ExchangeConfig
from router.exchange.links import LinkState
from router.exchange.session import RESEND_POLL_S, ExchangeSession

NUM_EXPERTS, TOP_K = 6, 2
A, B, C = (ShardId(f"shard-{name}") for name in "abc")


def create_topology(num_shards=2, num_replicas=2, row_budget=64):
    shards = (A, B, C)[:num_shards]
    return Topology(
        epoch=Epoch(1),
        mode=Mode.LATENCY,
        gateways=(GatewayId("gateway-0"),),
        shards=shards,
        placement=contiguous_placement(2, NUM_EXPERTS, shards, num_replicas),
        transport=LinkTransport.LOCAL,
        num_micro_batches=1,
        max_num_seqs=8,
        max_batched_tokens=64,
        row_budget=row_budget,
    )


def create_config(**changes):
    fields = {
        "deadline_floor_s": 0.05,
        "deadline_cap_s": 0.2,
        "give_up_after_s": 2.0,
        "resend_burst_rows": 1000,
        **changes,
    }
    return ExchangeConfig(**fields)


def create_routing(seed, num_tokens):
    scores = np.random.default_rng(seed).random((num_tokens, NUM_EXPERTS))
    return np.sort(np.argsort(scores, axis=1)[:, :TOP_K], axis=1)


def all_to(*experts, num_tokens=1):
    return np.array([experts] * num_tokens, dtype=np.int64)


class Gateway:
    """A session, its clock, and what it put on the wire; checks what must hold at every send."""

    def __init__(self, topology, config):
        self.topology, self.config = topology, config
        self.session = ExchangeSession(topology, config)
        self.now_s = 100.0
        self.sent = []  # every frame ever
        self.routing = {}  # expert ids by call
        self.layer = {}
        self.begun_s = {}
        self.times_filled = {}
        self.asked = {}
        self.rows_resent = 0
        self.rows_owed = 0  # by shards whose link broke
        self.rows_sent = 0
        self.refusals = set()  # (call, shard)
        self.away = {shard: [] for shard in topology.shards}  # frames not answered

    def take(self, actions):
        before = {shard: list(frames) for shard, frames in self.away.items()}
        for action in actions:
            self.check(action, before)
            self.sent.append(action)
            self.away[action.shard].append(action)
            asked, slots = self.asked[action.call], action.rows.slots
            self.rows_resent += int(asked[slots].sum())
            self.rows_sent += len(slots)
            asked[slots] = True
        return actions

    def check(self, action, away):
        links, rows = self.session.links, action.rows
        assert links.state[action.shard] is not LinkState.DOWN
        assert 0 < len(rows.slots) <= self.topology.row_budget
        assert action.frame not in {frame.frame for frame in self.sent}
        assert not self.times_filled[action.call][rows.slots].any(), "asks for what it has"
        for expert in rows.expert_ids.tolist():
            replicas = self.topology.placement.by_layer[self.layer[action.call]][expert]
            assert action.shard in replicas
            idle = [s for s in replicas if not self.owes(away[s], action.call, expert)]
            better = [
                shard
                for shard in idle or replicas
                if shard in links.healthy and (action.call, shard) not in self.refusals
            ]
            assert action.shard in better or not better, "a better replica was there"
            if action.shard not in links.healthy:
                assert not links.healthy.intersection(idle or replicas)
        for frame in away[action.shard]:
            if frame.call == action.call:
                assert not np.isin(frame.rows.slots, rows.slots).any(), "asks the same shard twice"

    @staticmethod
    def owes(frames, call, expert):
        return any(f.call == call and expert in f.rows.expert_ids for f in frames)

    def begin(self, expert_ids, layer=0):
        call = len(self.routing)
        self.routing[call], self.layer[call] = expert_ids, layer
        self.begun_s[call] = self.now_s
        self.times_filled[call] = np.zeros(expert_ids.size, dtype=int)
        self.asked[call] = np.zeros(expert_ids.size, dtype=bool)
        got, actions = self.session.begin(layer, expert_ids, self.now_s)
        assert got == call
        self.take(actions)
        return call, actions

    def answer(self, frame, shard=None, num_rows=None):
        shard = shard or frame.shard
        self.drop(frame)
        num_rows = len(frame.rows.slots) if num_rows is None else num_rows
        accepted = self.session.on_answer(shard, frame.frame, num_rows, self.now_s)
        if accepted is not None:
            assert accepted.call == frame.call
            assert (frame.rows.slots[accepted.rows] == accepted.slots).all()
            self.times_filled[frame.call][accepted.slots] += 1
        return accepted

    def lacks(self, frame):
        return not self.times_filled[frame.call][frame.rows.slots].all()

    def wrong_rows(self, frame, num_rows):
        self.refusals.add((frame.call, frame.shard))
        return self.answer(frame, num_rows=num_rows)

    def refuse(self, frame, error):
        self.drop(frame)
        if error.is_retryable:
            self.refusals.add((frame.call, frame.shard))
        return self.take(self.session.on_refusal(frame.shard, frame.frame, error, self.now_s))

    def drop(self, frame):
        away = self.away[frame.shard]
        if frame in away:
            away.remove(frame)

    def up(self, *shards):
        found = []
        for shard in shards:
            found += self.take(self.session.on_link_up(shard, self.now_s))
        return found

    def down(self, shard):
        self.rows_owed += sum(len(frame.rows.slots) for frame in self.away[shard])
        self.away[shard].clear()
        return self.take(self.session.on_link_down(shard, self.now_s))

    def on_time(self):
        return self.take(self.session.on_time(self.now_s))

    def advance(self, seconds):
        """Move the clock as the shell would: ``on_time`` at every deadline, and not too often."""
        end_s, found, num_wakes = self.now_s + seconds, [], 0
        num_deadlines = len(self.sent) + len(self.routing)
        while (deadline_s := self.session.next_deadline_s()) is not None and deadline_s <= end_s:
            self.now_s = max(self.now_s, deadline_s)
            found += self.on_time()
            num_wakes += 1
            most = num_deadlines + len(found) + seconds / RESEND_POLL_S + 2
            assert num_wakes <= most, "the session keeps its shell from sleeping"
        self.now_s = end_s
        return found

    def error_of(self, call):
        try:
            self.session.is_complete(call)
        except GalerneError as error:
            return error
        return None

    def answer_all(self):
        while frames := [frame for away in self.away.values() for frame in away]:
            for frame in frames:
                self.answer(frame)


def create_gateway(*, up=True, config=None, **shape):
    topology = create_topology(**shape)
    gateway = Gateway(topology, config or create_config())
    if up:
        gateway.up(*topology.shards)
    return gateway
