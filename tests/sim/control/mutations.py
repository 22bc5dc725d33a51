"""Bugs to plant in the control plane. Each says what it breaks, and which law must tell."""

from collections.abc import Callable
from dataclasses import dataclass

from cluster.actors import controller as controller_module
from cluster.control import keeper as keeper_module
from cluster.control.conductor import Stage, TopologyConductor
from cluster.control.keeper import ExpertKeeper
from cluster.control.straighten import Serving, Straightener
from galerne.errors import ProtocolError
from router.gateway.stream_record import StreamRecord
from shards.residency import Residency
from sim.control import shard as shard_module
from sim.control.experts import RemoteExperts
from sim.control.focus import FOCUSES, alone_with_the_controller, finale, trapped
from sim.control.laws import Law
from sim.control.schedule import Finale, Victim


@dataclass(frozen=True)
class Mutation:
    """One bug."""

    plant: Callable  # takes pytest's monkeypatch
    laws: tuple[Law, ...]  # one of these
    focus: Callable | None = None  # makes schedules in which it matters


MUTATIONS: dict[str, Mutation] = {}


def mutation(*laws, **options):
    def register(plant):
        MUTATIONS[plant.__name__] = Mutation(plant, laws, **options)
        return plant

    return register


# -- changes ---------------------------------------------------------------------------------


@mutation(Law.RETIRED)
def shards_retire_before_the_gateways_have_committed(patch):
    commit = TopologyConductor._commit

    async def eager(self, old, target):
        staying = set(old.shard_processes) & set(target.shard_processes)
        for shard in sorted(staying):
            await self._retire_one(shard, target)
        await commit(self, old, target)

    patch.setattr(TopologyConductor, "_commit", eager)


@mutation(Law.COMMITTED)
def gateways_commit_before_all_is_prepared(patch):
    async def hasty(self, old, target):
        self._move(Stage.STARTING)
        await self._until_live(sorted(set(target.parts) - set(old.parts)))

    patch.setattr(TopologyConductor, "_until_ready", hasty)


@mutation(Law.COMMITTED)
def the_target_is_current_only_when_all_have_committed(patch):
    async def late(self, old, target):
        self._move(Stage.COMMITTING)
        for gateway in old.gateways:
            await self._commit_one(gateway, old, target)
        self.current = target

    patch.setattr(TopologyConductor, "_commit", late)


@mutation(Law.ABORTED, focus=trapped("shadow", 2, Victim.TARGET, is_before=True))
def an_undo_forgets_the_gateways(patch):
    undo = TopologyConductor._undo

    class Nobody:
        def __init__(self, calls):
            self._calls = calls

        def __getattr__(self, name):
            return getattr(self._calls, name)

        async def abort(self, gateway, epoch, timeout_s):
            pass

    async def forgetful(self, old, target):
        calls, self._calls = self._calls, Nobody(self._calls)
        try:
            await undo(self, old, target)
        finally:
            self._calls = calls

    patch.setattr(TopologyConductor, "_undo", forgetful)


@mutation(Law.SETTLED)
def parts_of_the_target_do_not_start(patch):
    patch.setattr(
        TopologyConductor,
        "wanted",
        property(lambda self: dict.fromkeys(self.current.parts, self.current)),
    )


@mutation(Law.STREAMS, focus=FOCUSES["a gateway is not heard in a commit"])
def a_retired_epoch_is_refused_as_any_other(patch):
    patch.setattr(shard_module, "wrong_epoch", lambda served, asked: ProtocolError("wrong epoch"))


@mutation(Law.STREAMS, focus=FOCUSES["a gateway is not heard in a commit, and all shards leave"])
def a_commit_waits_for_a_step_that_cannot_end(patch):
    patch.setattr(RemoteExperts, "interrupt", lambda self: None)


@mutation(Law.SETTLED, focus=trapped("shadow", 1, Victim.TARGET))
def who_has_forgotten_what_was_prepared_is_told_to_commit_for_ever(patch):
    async def nothing(self, gateway, old, target):
        pass

    patch.setattr(TopologyConductor, "_prepare_again", nothing)


@mutation(Law.ONE_CHANGE)
def a_second_change_is_not_refused(patch):
    patch.setattr(TopologyConductor, "check", lambda self, target: None)


# -- lost shards -----------------------------------------------------------------------------


@mutation(Law.SETTLED, focus=finale(Finale.ONE_AWAY))
def adopted_experts_are_never_released(patch):
    def keep(held, wanted, *, is_settled):
        return None if wanted <= (held or frozenset()) else wanted | (held or frozenset())

    patch.setattr(keeper_module, "next_adoption", keep)


@mutation(Law.KEPT, focus=finale(Finale.FLAP))
def adopted_experts_are_released_at_once(patch):
    def drop(held, wanted, *, is_settled):
        return wanted if held != wanted else None

    patch.setattr(keeper_module, "next_adoption", drop)


@mutation(Law.ADOPTED, focus=finale(Finale.TWO_AWAY))
def a_second_loss_is_ignored(patch):
    note_lost = ExpertKeeper._note_lost

    def first_only(self, lost, now):
        note_lost(self, self._lost if self._lost and lost > self._lost else lost, now)

    patch.setattr(ExpertKeeper, "_note_lost", first_only)


@mutation(Law.SETTLED, Law.ABORTED)
def a_retired_epoch_still_places_experts(patch):
    patch.setattr(Residency, "retire", lambda self, keep: None)


# -- restarts --------------------------------------------------------------------------------


@mutation(Law.SETTLED, focus=trapped("prepare_topology", 1, Victim.CONTROLLER, shards=2))
def nobody_is_straightened(patch):
    async def nothing(self):
        pass

    patch.setattr(Straightener, "straighten", nothing)


@mutation(Law.FORWARD, Law.RETIRED, focus=trapped("commit", 2, Victim.CONTROLLER, is_before=True))
def a_new_controller_takes_the_lowest_epoch(patch):
    def oldest(states, known, first):
        topologies = [state.topology for state in states.values()]
        return Serving(min([*topologies, known or first], key=lambda t: t.epoch))

    patch.setattr(controller_module, "newest", oldest)


@mutation(Law.FORWARD, focus=alone_with_the_controller)
def a_new_controller_that_hears_no_gateway_starts_anew(patch):
    newest = controller_module.newest
    patch.setattr(
        controller_module, "newest", lambda states, known, first: newest(states, None, first)
    )


# -- streams ---------------------------------------------------------------------------------


@mutation(Law.TOKENS)
def tokens_that_come_again_are_not_dropped(patch):
    take = StreamRecord.take

    def trusting(self, delta):
        take(self, delta)
        return delta

    patch.setattr(StreamRecord, "take", trusting)
    patch.setattr(StreamRecord, "resumption", lambda self: self.request)


@mutation(Law.TOKENS, Law.STREAMS)
def a_moved_stream_begins_anew(patch):
    patch.setattr(StreamRecord, "_new_of", lambda self, delta: delta)
