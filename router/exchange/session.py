"""The exchange session: a state machine without I/O. Events and time in, actions out.

It tracks rows, not frames: a slot (token, k) of a call is filled by the first valid answer, later
ones are dropped. A frame whose deadline passes makes its shard a suspect and its rows are asked of
another replica; rows whose every replica is gone wait for a link to come up. Nothing waits longer
than ``give_up_after_s``. Design section 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from galerne.errors import EpochRetiredError, GalerneError, ShardUnavailableError
from galerne.ids import CallId, Epoch, FrameId, ShardId
from galerne.topology import Topology
from router.exchange.calls import Accepted, Call, InFlight, SendFrame, SessionCounters
from router.exchange.deadline import ExchangeConfig, ServiceTime
from router.exchange.dispatch import (
    Ints,
    cut,
    group_slots,
    owners_of,
    rows_of,
    slots_by_owner,
)
from router.exchange.links import LinkBook, OnLinkChange
from router.exchange.replicas import ReplicaBook

RESEND_POLL_S = 0.05  # how soon rows that found no budget or no replica are looked at again
_MAX_ATTEMPT = 0xFFFF  # of the frame's header, as the next
_NUM_FRAMES = 1 << 32


class ExchangeSession:
    """Every exchange of one gateway with the shards of one topology."""

    def __init__(
        self,
        topology: Topology,
        config: ExchangeConfig,
        on_link_change: OnLinkChange | None = None,
        counters: SessionCounters | None = None,
    ) -> None:
        """All links start down; the transport reports them up. ``counters`` are added to."""
        self._topology = topology
        self._config = config
        self._links = LinkBook(topology.shards, on_link_change)
        self._service = {shard: ServiceTime(config) for shard in topology.shards}
        self._calls: dict[CallId, Call] = {}
        self._in_flight: dict[FrameId, InFlight] = {}
        self._replicas = ReplicaBook(topology.placement, self._links)
        self._owners = owners_of(topology)
        self._next_call = 0
        self._next_frame = 0
        self._budget_rows = float(config.resend_burst_rows)
        self._budget_at_s: float | None = None  # when the budget was last topped up
        self.counters = counters or SessionCounters()
        self._of_link = {shard: self.counters.of(shard) for shard in topology.shards}

    # -- events ------------------------------------------------------------------------------

    def begin(self, layer: int, expert_ids: Ints, now_s: float) -> tuple[CallId, list[SendFrame]]:
        """Start the exchange of ``[T, K]`` routing of one layer."""
        call_id, call = self._new_call(layer, expert_ids, now_s)
        owner = self.owners(layer)
        if owner is not None:
            return call_id, self._send_to_owners(call_id, call, owner, now_s)
        return call_id, self._send(call_id, call, np.arange(expert_ids.size), now_s)

    def begin_sent(
        self, layer: int, expert_ids: Ints, slots_by_shard: Mapping[ShardId, Ints], now_s: float
    ) -> tuple[CallId, dict[ShardId, FrameId]]:
        """Start an exchange whose frames are on their way: to shard i the ``next_frame`` + i.

        The call and the frame of every shard that has slots.
        """
        call_id, call = self._new_call(layer, expert_ids, now_s)
        self._note_asked(call, np.arange(expert_ids.size))
        frames = {}
        for number, shard in enumerate(self._topology.shards):
            slots = slots_by_shard.get(shard)
            if slots is None:
                continue
            frames[shard] = frame = FrameId((self._next_frame + number) % _NUM_FRAMES)
            self._put_in_flight(frame, call_id, call, shard, slots, now_s)
        self._next_frame = (self._next_frame + len(self._topology.shards)) % _NUM_FRAMES
        return call_id, frames

    def on_answer(
        self, shard: ShardId, frame: FrameId, num_rows: int, now_s: float
    ) -> Accepted | None:
        """An answer came. What of it is new, or None if nothing is (late or duplicate)."""
        self._links.heard_from(shard)
        flight, call = self._take(shard, frame)
        if flight is None or call is None:
            self.counters.late_answers += 1
            self._of_link[shard].late_answers += 1
            return None
        if num_rows != len(flight.slots):
            call.note_refusal(shard)
            self._doubt(call, flight)
            self._note_refused(shard)
            return None
        took_s = max(now_s - flight.sent_s, 0.0)
        self._service[shard].observe(num_rows, took_s)
        self._of_link[shard].round_trips.add(took_s)
        new = np.flatnonzero(~call.filled[flight.slots])
        self.counters.duplicate_rows += num_rows - len(new)
        call.filled[flight.slots] = True
        return Accepted(flight.call, new, flight.slots[new]) if len(new) else None

    def on_refusal(
        self, shard: ShardId, frame: FrameId, error: GalerneError, now_s: float
    ) -> list[SendFrame]:
        """A shard refused a frame: for good (wrong epoch, unknown expert), or to be sent again."""
        self._links.heard_from(shard)
        flight, call = self._take(shard, frame)
        if flight is None or call is None:
            return []
        self._note_refused(shard)
        is_retired = isinstance(error, EpochRetiredError)  # says any shard, also an adopter
        if is_retired or (not error.is_retryable and self._replicas.are_placed(call, flight)):
            call.error = error
            return []
        self._doubt(call, flight)
        if not call.note_refusal(shard):  # not in a circle at the wire's speed: see ``on_time``
            return []
        return self._resend(now_s)

    def on_link_up(self, shard: ShardId, now_s: float) -> list[SendFrame]:
        """A shard can be reached (again): rows that wait for it are sent."""
        self._links.up(shard)
        self._service[shard] = ServiceTime(self._config)  # a restarted shard is cold again
        return self._resend(now_s)

    def on_link_down(self, shard: ShardId, now_s: float) -> list[SendFrame]:
        """A link broke: what it owes is asked of replicas at once, outside the resend budget."""
        self._links.down(shard)
        self._replicas.adopted_by(shard, {})  # it tells again when it is back
        owed = [f for f, flight in self._in_flight.items() if flight.shard == shard]
        for frame in owed:
            flight = self._in_flight.pop(frame)
            call = self._calls.get(flight.call)
            if call is not None:
                self._next_attempt(call, flight)
                owed_slots = flight.slots
                if flight.is_overdue:  # asked again already, but for what lacked budget
                    owed_slots = np.intersect1d(owed_slots, call.unfilled(call.doubted))
                call.orphans.append(owed_slots)
        return self._resend(now_s)

    def on_adopted(
        self, shard: ShardId, experts_by_layer: Mapping[int, Sequence[int]], now_s: float
    ) -> list[SendFrame]:
        """A shard holds these experts for others, and no more: rows that wait for it are sent."""
        self._replicas.adopted_by(shard, experts_by_layer)
        return self._resend(now_s)

    def on_time(self, now_s: float) -> list[SendFrame]:
        """Deadlines: suspect, redirect, give up."""
        for flight in list(self._in_flight.values()):
            call = self._calls.get(flight.call)
            if call is None or flight.is_overdue or now_s < flight.deadline_s:
                continue
            flight.is_overdue = True  # its answer still counts if it comes
            if self._links.suspect(flight.shard):
                self.counters.suspicions += 1
                self._of_link[flight.shard].suspicions += 1
            self._doubt(call, flight)
        actions = self._resend(now_s)
        for call_id, call in self._calls.items():
            if call.is_open and now_s >= call.begun_s + self._config.give_up_after_s:
                waited = now_s - call.begun_s
                call.error = ShardUnavailableError(self.missing_shards(call_id), waited)
        return actions

    def end(self, call_id: CallId) -> None:
        """Forget a call; answers that still come are late."""
        del self._calls[call_id]
        for frame in [f for f, flight in self._in_flight.items() if flight.call == call_id]:
            del self._in_flight[frame]

    # -- questions ---------------------------------------------------------------------------

    def owners(self, layer: int) -> Ints | None:
        """``[E]`` the number of every expert's shard; None while there is something to choose."""
        if self._owners is None or not self._links.are_all_up:
            return None
        return self._owners[layer]

    @property
    def epoch(self) -> Epoch:
        """Of the topology."""
        return self._topology.epoch

    @property
    def next_frame(self) -> FrameId:
        """The number of the next frame."""
        return FrameId(self._next_frame)

    @property
    def row_budget(self) -> int:
        """Rows of a frame at most."""
        return self._topology.row_budget

    def is_complete(self, call_id: CallId) -> bool:
        """Whether every slot is filled.

        Raises:
            GalerneError: The call cannot be completed.
        """
        call = self._calls[call_id]
        if call.error is not None:
            raise call.error
        return bool(call.filled.all())

    def num_awaited(self, call_id: CallId) -> int:
        """Answers of frames in time that a call waits for; 1 at least."""
        flights = self._in_flight.values()
        return max(sum(f.call == call_id and not f.is_overdue for f in flights), 1)

    def next_deadline_s(self) -> float | None:
        """When ``on_time`` must be called at the latest; None if nothing is away."""
        times = [f.deadline_s for f in self._in_flight.values() if not f.is_overdue]
        for call in filter(lambda call: call.is_open, self._calls.values()):
            times.append(call.begun_s + self._config.give_up_after_s)
            if (call.orphans or call.doubted) and self._budget_at_s is not None:
                times.append(self._budget_at_s + RESEND_POLL_S)
        return min(times, default=None)

    def unreachable(self) -> list[ShardId]:
        """Shards whose links are down and that leave an expert without a reachable copy."""
        return self._replicas.unreachable()

    def missing_shards(self, call_id: CallId) -> str:
        """Who is to answer what a call still lacks, in words."""
        call = self._calls[call_id]
        flat = call.expert_ids.reshape(-1)[~call.filled]
        replicas = self._topology.placement.by_layer[call.layer]
        return ",".join(sorted({shard for e in flat.tolist() for shard in replicas[e]}))

    @property
    def links(self) -> LinkBook:
        """Health of every shard's link."""
        return self._links

    # -- helpers -----------------------------------------------------------------------------

    def _new_call(self, layer: int, expert_ids: Ints, now_s: float) -> tuple[CallId, Call]:
        call_id = CallId(self._next_call)
        self._next_call += 1
        nothing = np.zeros(expert_ids.size, dtype=bool)
        call = Call(layer, expert_ids, now_s, filled=nothing, asked=nothing.copy())
        self._calls[call_id] = call
        return call_id, call

    def _take(self, shard: ShardId, frame: FrameId) -> tuple[InFlight, Call] | tuple[None, None]:
        """The frame that a shard answers or refuses, no longer in flight; none if not its own."""
        flight = self._in_flight.get(frame)
        if flight is None or flight.shard != shard:
            return None, None
        del self._in_flight[frame]
        return flight, self._calls[flight.call]

    @staticmethod
    def _next_attempt(call: Call, flight: InFlight) -> None:
        call.attempt = min(max(call.attempt, flight.attempt + 1), _MAX_ATTEMPT)

    def _note_refused(self, shard: ShardId) -> None:
        self.counters.refused_frames += 1
        self._of_link[shard].refused_frames += 1

    def _doubt(self, call: Call, flight: InFlight) -> None:
        self._next_attempt(call, flight)
        call.doubted.append(flight.slots)

    def _resend(self, now_s: float) -> list[SendFrame]:
        """Orphans wherever a shard has come, doubted rows as far as the budget goes.

        Rows and calls that were paid for come last the next time, so that what is refused again
        and again does not take the budget from the others.
        """
        actions: list[SendFrame] = []
        self._top_up(now_s)
        for call_id, call in list(self._calls.items()):
            if call.error is not None:
                continue
            orphans = call.unfilled(call.orphans)
            doubted = call.unfilled(call.doubted)
            doubted = doubted[~np.isin(doubted, orphans)]
            affordable = int(self._budget_rows)
            paid, left = doubted[:affordable], doubted[affordable:]
            call.orphans, call.doubted = [], [left] if len(left) else []
            if len(paid):
                self._budget_rows -= len(paid)
                self._calls[call_id] = self._calls.pop(call_id)
            sent = self._send(call_id, call, np.union1d(orphans, paid), now_s)
            self.counters.rows_hedged += sum(int(np.isin(a.rows.slots, paid).sum()) for a in sent)
            actions += sent
        return actions

    def _send_to_owners(
        self, call_id: CallId, call: Call, owner: Ints, now_s: float
    ) -> list[SendFrame]:
        """``_send`` of a new call where nothing is to be chosen: one copy of all, all healthy."""
        shards = self._topology.shards
        by_shard = slots_by_owner(call.expert_ids, owner, len(shards))
        actions = [
            self._frame(call_id, call, shard, part, now_s)
            for shard, slots in zip(shards, by_shard, strict=True)
            for part in cut(slots, self._topology.row_budget)
        ]
        self._note_asked(call, np.arange(call.expert_ids.size))
        return actions

    def _send(self, call_id: CallId, call: Call, slots: Ints, now_s: float) -> list[SendFrame]:
        """Frames for the slots that some usable replica holds; the rest become orphans."""
        if not len(slots):
            return []
        owed = [flight for flight in self._in_flight.values() if flight.call == call_id]
        shard_of_expert = self._replicas.choose(call, owed, slots)
        flat = call.expert_ids.reshape(-1)
        lost = [expert for expert, shard in shard_of_expert.items() if shard is None]
        if lost:
            is_lost = np.isin(flat[slots], lost)
            call.orphans.append(slots[is_lost])
            slots = slots[~is_lost]
        found = {e: shard for e, shard in shard_of_expert.items() if shard is not None}
        actions = []
        for shard, mine in group_slots(call.expert_ids, slots, found).items():
            new = self._not_owed(call, owed, shard, mine)
            slots = slots if len(new) == len(mine) else np.setdiff1d(slots, np.setdiff1d(mine, new))
            for part in cut(new, self._topology.row_budget):
                actions.append(self._frame(call_id, call, shard, part, now_s))
        self._note_asked(call, slots)
        return actions

    def _note_asked(self, call: Call, slots: Ints) -> None:
        num_again = int(call.asked[slots].sum())
        call.asked[slots] = True
        self.counters.rows_resent += num_again
        self.counters.rows_sent += len(slots) - num_again
        self._grant(len(slots) * self._config.resend_share)

    def _not_owed(
        self, call: Call, flights: Sequence[InFlight], shard: ShardId, slots: Ints
    ) -> Ints:
        """The slots that a shard does not owe already; the others stay in doubt, at no cost.

        A link that stands answers or breaks, so asking the same shard twice could only add load.
        """
        owed = [flight.slots for flight in flights if flight.shard == shard]
        if not owed:
            return slots
        is_owed = np.isin(slots, np.concatenate(owed))
        if is_owed.any():
            call.doubted.append(slots[is_owed])
            self._grant(float(is_owed.sum()))
        return slots[~is_owed]

    def _top_up(self, now_s: float) -> None:
        """The budget also grows with time, so that a lone stuck call is not stuck for good."""
        if self._budget_at_s is not None:
            self._grant((now_s - self._budget_at_s) * self._config.resend_rows_per_s)
        self._budget_at_s = now_s

    def _grant(self, num_rows: float) -> None:
        most = max(self._budget_rows, float(self._config.resend_burst_rows))
        self._budget_rows = min(self._budget_rows + num_rows, most)

    def _frame(
        self, call_id: CallId, call: Call, shard: ShardId, slots: Ints, now_s: float
    ) -> SendFrame:
        frame = FrameId(self._next_frame)
        self._next_frame = (self._next_frame + 1) % _NUM_FRAMES
        rows = rows_of(call.expert_ids, slots)
        self._put_in_flight(frame, call_id, call, shard, rows.slots, now_s)
        return SendFrame(shard, frame, call_id, call.attempt, rows)

    def _put_in_flight(
        self, frame: FrameId, call_id: CallId, call: Call, shard: ShardId, slots: Ints, now_s: float
    ) -> None:
        due = now_s + self._service[shard].deadline_s(len(slots), call.attempt)
        self._in_flight[frame] = InFlight(call_id, shard, slots, call.attempt, now_s, due)
        link = self._of_link[shard]
        link.frames += 1
        link.rows += len(slots)
