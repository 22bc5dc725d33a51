"""Bugs to plant in the code under test. Each says what it breaks, and which law must tell.

Left out because no law can tell: an answer that fills rows again (experts are pure, so the bits are
the same), whole calls that are waited for after an event (the wait ends at its deadline), and
``RESEND_POLL_S`` without an end (the shell looks twice a second anyway).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

import router.exchange.session as session_module
import sim.shards as shards_module
from galerne.errors import ShardUnavailableError
from router.exchange.calls import Accepted, Call
from router.exchange.deadline import ServiceTime
from router.exchange.exchange import ExpertExchange
from router.exchange.links import LinkBook
from router.exchange.replicas import ReplicaBook
from router.exchange.session import ExchangeSession
from shards.epochs import ServedEpochs
from shards.residency import Residency
from sim.laws import Law


@dataclass(frozen=True)
class Mutation:
    """One bug."""

    plant: Callable  # takes pytest's monkeypatch
    law: Law
    first_seed: int = 0


MUTATIONS: dict[str, Mutation] = {}


def mutation(law, **options):
    def register(plant):
        MUTATIONS[plant.__name__] = Mutation(plant, law, **options)
        return plant

    return register


# -- answers ---------------------------------------------------------------------------------


@mutation(Law.BITS)
def complete_is_a_count_of_rows_so_that_duplicates_count_twice(patch):
    on_answer = ExchangeSession.on_answer

    def counting(self, shard, frame, num_rows, now_s):
        frames, rows = self.__dict__.setdefault("counted", ({}, {}))
        if frame in self._in_flight:
            frames[frame] = self._in_flight[frame].call
        if frame in frames:
            rows[frames[frame]] = rows.get(frames[frame], 0) + num_rows
        return on_answer(self, shard, frame, num_rows, now_s)

    def is_complete(self, call_id):
        call, (_, rows) = self._calls[call_id], self.__dict__.get("counted", ({}, {}))
        if call.error is not None:
            raise call.error
        return rows.get(call_id, 0) >= call.expert_ids.size

    patch.setattr(ExchangeSession, "on_answer", counting)
    patch.setattr(ExchangeSession, "is_complete", is_complete)


@mutation(Law.BITS)
def any_shard_may_answer_a_frame(patch):
    def take(self, shard, frame):
        flight = self._in_flight.pop(frame, None)
        return (None, None) if flight is None else (flight, self._calls[flight.call])

    patch.setattr(ExchangeSession, "_take", take)


@mutation(Law.BITS, first_seed=100)
def slots_of_a_partly_new_answer_are_swapped(patch):
    on_answer = ExchangeSession.on_answer

    def swapping(self, shard, frame, num_rows, now_s):
        accepted = on_answer(self, shard, frame, num_rows, now_s)
        if accepted is None or len(accepted.rows) == num_rows:
            return accepted
        return Accepted(accepted.call, accepted.rows, accepted.slots[::-1].copy())

    patch.setattr(ExchangeSession, "on_answer", swapping)


@mutation(Law.BITS)
def a_whole_call_counts_as_in_when_its_first_answer_is(patch):
    def collect(self, call):
        sent, frames = self._whole.pop(call, (None, {}))
        if sent is not None:
            sent.collect(self._buffers[call], 0.5)
            for shard, slots in sent.slots_by_shard.items():
                now_s = self._clock.now_s()
                self._session.on_answer(shard, frames[shard], len(slots), now_s)

    patch.setattr(ExpertExchange, "_collect", collect)


@mutation(Law.BITS)
def merged_results_are_split_without_undoing_their_order(patch):
    def split(merged, results):
        return list(torch.split(results, merged.num_rows_by_frame))

    patch.setattr(shards_module, "split", split)


@mutation(Law.BITS)
def rows_go_to_the_call_that_began_last(patch):
    fill = ExpertExchange._fill

    def misplacing(self, call, slots, places, rows):
        newest = max(self._buffers)
        fits = len(self._buffers[newest]) == len(self._buffers[call])
        fill(self, newest if fits else call, slots, places, rows)

    patch.setattr(ExpertExchange, "_fill", misplacing)


# -- faults ----------------------------------------------------------------------------------


@mutation(Law.ENDS)
def a_broken_link_orphans_nothing(patch):
    def on_link_down(self, shard, now_s):
        self._links.down(shard)
        flights = self._in_flight.items()
        self._in_flight = {f: flight for f, flight in flights if flight.shard != shard}
        return self._resend(now_s)

    patch.setattr(ExchangeSession, "on_link_down", on_link_down)


@mutation(Law.ENDS)
def rows_of_an_overdue_frame_are_not_asked_again_when_its_link_breaks(patch):
    on_link_down = ExchangeSession.on_link_down

    def forgetting(self, shard, now_s):
        flights = self._in_flight.items()
        overdue = {f for f, flight in flights if flight.shard == shard and flight.is_overdue}
        for frame in overdue:
            flight = self._in_flight.pop(frame)
            self._calls[flight.call].doubted.clear()
        return on_link_down(self, shard, now_s)

    patch.setattr(ExchangeSession, "on_link_down", forgetting)


@mutation(Law.ENDS)
def deadlines_never_pass(patch):
    patch.setattr(ServiceTime, "deadline_s", lambda self, num_rows, attempt: 1e6)


@mutation(Law.ENDS)
def an_answer_does_not_clear_a_suspect(patch):
    patch.setattr(LinkBook, "heard_from", lambda self, shard: None)


@mutation(Law.ENDS)
def a_suspects_rows_are_not_asked_of_a_replica(patch):
    on_time = ExchangeSession.on_time

    def doubting_nothing(self, now_s):
        self._doubt = lambda call, flight: None
        actions = on_time(self, now_s)
        del self._doubt
        return actions

    patch.setattr(ExchangeSession, "on_time", doubting_nothing)


@mutation(Law.ENDS)
def a_broken_link_still_counts_as_up(patch):
    patch.setattr(LinkBook, "down", lambda self, shard: None)


@mutation(Law.ENDS)
def the_last_part_of_a_cut_frame_is_lost(patch):
    def cut(slots, row_budget):
        parts = range(0, max(len(slots) - row_budget, 1), row_budget)
        return [slots[i : i + row_budget] for i in parts if len(slots)]

    patch.setattr(session_module, "cut", cut)


@mutation(Law.ENDS, first_seed=60)
def adopters_are_not_asked(patch):
    patch.setattr(ExchangeSession, "on_adopted", lambda self, shard, experts, now_s: [])


@mutation(Law.FRAMES)
def who_adopted_before_its_link_broke_is_still_asked(patch):
    adopted_by = ReplicaBook.adopted_by

    def remembering(self, shard, experts_by_layer):
        if experts_by_layer:
            adopted_by(self, shard, experts_by_layer)

    patch.setattr(ReplicaBook, "adopted_by", remembering)


@mutation(Law.ENDS, first_seed=1500)
def experts_that_an_epoch_to_come_places_here_are_not_adopted(patch):
    def adopt(self, experts):
        self.adopted = experts - frozenset().union(*self._by_epoch.values())

    patch.setattr(Residency, "adopt", adopt)


@mutation(Law.ENDS, first_seed=210)
def who_refused_first_is_asked_for_ever(patch):
    def note_refusal(self, shard):
        is_first = shard not in self.refused_by
        self.refused_by.setdefault(shard)
        return is_first

    patch.setattr(Call, "note_refusal", note_refusal)


# -- ends ------------------------------------------------------------------------------------


@mutation(Law.ENDS)
def nobody_gives_up(patch):
    on_time = ExchangeSession.on_time

    def patient(self, now_s):
        actions = on_time(self, now_s)
        for call in self._calls.values():
            if isinstance(call.error, ShardUnavailableError):
                call.error = None
        return actions

    patch.setattr(ExchangeSession, "on_time", patient)


@mutation(Law.ENDS)
def calls_are_given_up_too_early(patch):
    on_time = ExchangeSession.on_time

    def impatient(self, now_s):
        config = self._config
        self._config = replace(config, give_up_after_s=config.deadline_cap_s * 1.01)
        actions = on_time(self, now_s)
        self._config = config
        return actions

    patch.setattr(ExchangeSession, "on_time", impatient)


@mutation(Law.RELEASED)
def flights_outlive_their_call(patch):
    patch.setattr(ExchangeSession, "end", lambda self, call_id: self._calls.pop(call_id))


@mutation(Law.RELEASED)
def a_step_that_failed_is_not_abandoned(patch):
    patch.setattr(ExpertExchange, "abandon", lambda self: None)


@mutation(Law.RELEASED)
def the_old_exchange_is_not_closed(patch):
    patch.setattr(ExpertExchange, "close", lambda self: None)


# -- budget and epochs -----------------------------------------------------------------------


@mutation(Law.ENDS)
def the_budget_is_never_refilled(patch):
    patch.setattr(ExchangeSession, "_grant", lambda self, num_rows: None)


@mutation(Law.BUDGET, first_seed=40)
def resends_cost_nothing(patch):
    patch.setattr(ExchangeSession, "_top_up", lambda self, now_s: self._grant_all())
    endless = lambda self: setattr(self, "_budget_rows", 1e9)  # noqa: E731
    patch.setattr(ExchangeSession, "_grant_all", endless, raising=False)


@mutation(Law.FRAMES)
def a_shard_is_asked_twice_for_what_it_owes(patch):
    def owe_nothing(self, call, flights, shard, slots):
        return np.asarray(slots)

    patch.setattr(ExchangeSession, "_not_owed", owe_nothing)


@mutation(Law.EPOCHS)
def every_epoch_is_served(patch):
    patch.setattr(ServedEpochs, "__contains__", lambda self, epoch: True)


@mutation(Law.EPOCHS)
def a_retired_epoch_is_still_served(patch):
    def replace(self, epochs):
        self._epochs = self._epochs.union(epochs)

    patch.setattr(ServedEpochs, "replace", replace)


@mutation(Law.EPOCHS)
def a_hello_is_not_checked(patch):
    patch.setattr(shards_module, "check_hello", lambda *fields: None)
