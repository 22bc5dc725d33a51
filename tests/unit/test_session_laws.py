"""Laws of the exchange session, by a state machine of shards that do everything wrong."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from galerne.errors import OverloadedError, ProtocolError, ShardUnavailableError
from helpers.session_gateway import create_config, create_gateway, create_routing
from router.exchange.links import LinkState
from router.exchange.session import RESEND_POLL_S


class SessionMachine(RuleBasedStateMachine):
    """Shards that answer, answer late, twice or wrongly, refuse, hang, go and come back."""

    @initialize(
        num_shards=st.integers(1, 3),
        num_replicas=st.integers(1, 3),
        row_budget=st.sampled_from([1, 3, 64]),
        burst=st.sampled_from([5, 50]),
    )
    def start(self, num_shards, num_replicas, row_budget, burst):
        config = create_config(resend_burst_rows=burst, resend_rows_per_s=20.0)
        self.gateway = create_gateway(
            up=False,
            config=config,
            num_shards=num_shards,
            num_replicas=min(num_replicas, num_shards),
            row_budget=row_budget,
        )
        self.started_s = self.gateway.now_s
        self.shards = self.gateway.topology.shards
        self.open = set()
        self.refused_for_good = set()
        self.gone = []  # frames answered or lost: whatever comes for them is late

    def is_up(self, shard):
        return self.gateway.session.links.state[shard] is not LinkState.DOWN

    def pick_away(self, data):
        frames = [frame for away in self.gateway.away.values() for frame in away]
        frame = data.draw(st.sampled_from(frames))
        self.gone.append(frame)
        return frame

    @rule(seed=st.integers(0, 999), num_tokens=st.integers(0, 5), layer=st.integers(0, 1))
    def begin(self, seed, num_tokens, layer):
        call, _ = self.gateway.begin(create_routing(seed, num_tokens), layer)
        self.open.add(call)

    @rule(data=st.data())
    def link_up(self, data):
        self.gateway.up(data.draw(st.sampled_from(self.shards)))

    @rule(data=st.data())
    def link_down(self, data):
        shard = data.draw(st.sampled_from(self.shards))
        self.gone += self.gateway.away[shard]
        self.gateway.down(shard)

    @precondition(lambda self: any(self.gateway.away.values()))
    @rule(data=st.data())
    def answer(self, data):
        frame = self.pick_away(data)
        is_new = frame.call in self.open and self.gateway.lacks(frame)
        assert (self.gateway.answer(frame) is not None) == is_new
        assert self.gateway.session.links.state[frame.shard] is LinkState.UP

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def answer_again(self, data):
        assert self.gateway.answer(data.draw(st.sampled_from(self.gone))) is None

    @precondition(lambda self: any(self.gateway.away.values()) and len(self.shards) > 1)
    @rule(data=st.data())
    def another_shard_answers(self, data):
        frames = [frame for away in self.gateway.away.values() for frame in away]
        frame = data.draw(st.sampled_from(frames))
        other = next(shard for shard in self.shards if shard != frame.shard)
        session, num_rows = self.gateway.session, len(frame.rows.slots)
        assert session.on_answer(other, frame.frame, num_rows, self.gateway.now_s) is None

    @precondition(lambda self: any(self.gateway.away.values()))
    @rule(data=st.data(), surplus=st.sampled_from([-1, 1, 7]))
    def wrong_rows(self, data, surplus):
        frame = self.pick_away(data)
        assert self.gateway.wrong_rows(frame, len(frame.rows.slots) + surplus) is None

    @precondition(lambda self: any(self.gateway.away.values()))
    @rule(data=st.data())
    def refuse_for_now(self, data):
        self.gateway.refuse(self.pick_away(data), OverloadedError("shard", 1, 0.0))

    @precondition(lambda self: any(self.gateway.away.values()))
    @rule(data=st.data(), is_certain=st.integers(0, 3))
    def refuse_for_good(self, data, is_certain):
        if is_certain:  # rare, or little else is seen
            return
        frame = self.pick_away(data)
        assert self.gateway.refuse(frame, ProtocolError("no")) == []
        if frame.call in self.open:
            self.refused_for_good.add(frame.call)

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.06, 0.21, 0.7]))
    def time_passes(self, seconds):
        self.gateway.advance(seconds)

    @rule()
    def collect(self):
        for call in sorted(self.open):
            error = self.gateway.error_of(call)
            if error is not None or self.gateway.session.is_complete(call):
                self.gateway.session.end(call)
                self.open.discard(call)

    @invariant()
    def every_slot_is_filled_once_at_most_and_complete_means_all(self):
        for call in self.open:
            filled = self.gateway.times_filled[call]
            assert filled.max(initial=0) <= 1
            if self.gateway.error_of(call) is None:
                assert self.gateway.session.is_complete(call) == bool(filled.all())

    @invariant()
    def calls_give_up_in_time_and_not_before(self):
        for call in self.open:
            waited_s = self.gateway.now_s - self.gateway.begun_s[call]
            error = self.gateway.error_of(call)
            if isinstance(error, ShardUnavailableError):
                assert waited_s > 2.0 - 1e-9
                assert error.waited_s < 2.0 + 1e-9
            elif call in self.refused_for_good:
                assert isinstance(error, ProtocolError)
            else:
                assert error is None
                assert waited_s < 2.0 + 1e-9 or self.gateway.times_filled[call].all()

    @invariant()
    def resends_keep_to_their_budget(self):
        gateway, config = self.gateway, self.gateway.config
        earned = (
            config.resend_burst_rows
            + config.resend_share * gateway.rows_sent
            + config.resend_rows_per_s * (gateway.now_s - self.started_s)
        )
        assert gateway.rows_resent <= earned + gateway.rows_owed + 1e-6
        counters = gateway.session.counters
        assert counters.rows_resent == gateway.rows_resent
        assert 0 <= counters.rows_hedged <= counters.rows_resent
        links = counters.by_shard.values()
        assert sum(link.rows for link in links) == gateway.rows_sent
        assert sum(link.frames for link in links) == len(gateway.sent)
        assert sum(link.late_answers for link in links) == counters.late_answers
        assert sum(link.suspicions for link in links) == counters.suspicions
        assert sum(link.refused_frames for link in links) == counters.refused_frames

    def teardown(self):
        """Whatever happened: shards that are back and well complete every call in time."""
        if not hasattr(self, "gateway"):
            return
        gateway = self.gateway
        gateway.up(*self.shards)
        waiting = [call for call in self.open if gateway.error_of(call) is None]
        num_missing = sum(int((gateway.times_filled[call] == 0).sum()) for call in waiting)
        young = [call for call in waiting if gateway.now_s - gateway.begun_s[call] < 0.4]
        for _ in range(30):  # 1.5 s, in which the budget grows by 30 rows
            gateway.answer_all()
            gateway.advance(RESEND_POLL_S)
        gateway.answer_all()
        if num_missing <= 25:
            for call in young:
                assert gateway.session.is_complete(call)
                assert gateway.times_filled[call].min(initial=1) == 1
        for call in self.open:
            gateway.session.end(call)
        assert gateway.session.next_deadline_s() is None


TestSession = SessionMachine.TestCase
TestSession.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
