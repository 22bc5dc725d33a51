"""A gateway that runs steps over the real exchange, and changes to another between two of them."""

from dataclasses import dataclass

import numpy as np
import torch

from galerne.errors import GalerneError, ProtocolError
from sim.bits import create_routing, create_tokens, expert_rows
from sim.laws import CallLaw
from sim.member import create_member

LONG_S = 0.5  # that an idle engine sleeps between two looks at its events
SHADOW_PATIENCE_S = 2.0


@dataclass
class SimCall:
    """A call that is away."""

    away: object
    law: CallLaw


class SimGateway:
    """Walks through layers and micro-batches as ``Decoder.forward`` does."""

    def __init__(self, world, cluster, schedule):
        self._world, self._cluster, self._schedule = world, cluster, schedule
        self._rng = np.random.default_rng(schedule.seed)
        self._num_calls = self._num_steps = 0
        self.num_complete = self.num_failed = 0
        self.retired = set()  # epochs that somebody retired too early for this gateway
        self.member = create_member(world, cluster, schedule, schedule.topology)

    def run_step(self):
        """One step; whether it ended well."""
        member = self.member
        self._num_steps += 1
        member.step = self._num_steps
        member.exchange.start_step(member.step)
        try:
            self._run_layers(member)
            is_complete = True
        except GalerneError:
            member.exchange.abandon()
            is_complete = False
        member.close_calls()
        return is_complete

    def _run_layers(self, member):
        away = [None] * member.topology.num_micro_batches
        for layer in range(self._schedule.num_layers):
            for micro_batch in range(len(away)):
                if away[micro_batch] is not None:
                    self._join(member, away[micro_batch])
                away[micro_batch] = self._begin(member, layer, micro_batch)
                self._stand_still(member, self._cluster.call_begins(self._num_calls))
                self._num_calls += 1
        for call in away:
            self._join(member, call)

    def _stand_still(self, member, pause_s):
        """The attention of the next micro-batch, and then the whole process."""
        attention_s = self._rng.random() * 0.001
        self._world.run_until(self._world.time_s + attention_s + pause_s)
        for law in member.open if pause_s else ():
            law.gateway_stood_still(self._world.time_s)

    def _begin(self, member, layer, micro_batch):
        schedule, rng, epoch = self._schedule, self._rng, member.topology.epoch
        num_tokens = int(rng.integers(0, schedule.max_tokens + 1))
        x = create_tokens(rng, num_tokens)
        routing = create_routing(rng, num_tokens, schedule.num_experts, schedule.top_k)
        law = CallLaw(
            schedule.config,
            schedule.window_s(member.topology),
            self._world.time_s,
            layer,
            np.unique(routing).tolist(),
            expert_rows(epoch, layer, routing, x[:, None]),
        )
        self._world.note("begin", epoch, layer, micro_batch, num_tokens)
        member.ledger.open((member.step, layer, micro_batch), routing)
        away = member.exchange.begin(layer, micro_batch, torch.from_numpy(x), routing)
        member.open.append(law)
        return SimCall(away, law)

    def _join(self, member, call):
        world, joined_s, holders = self._world, self._world.time_s, member.ledger.holders
        try:
            rows = call.away.wait()
        except GalerneError as error:
            is_retired = member.topology.epoch in self.retired
            world.note("failed", type(error).__name__)
            call.law.check_error(error, world.time_s, may_be_refused=is_retired)
            if not isinstance(error, ProtocolError):
                call.law.check_end(world.time_s, joined_s, holders)
            self.num_failed += 1
            raise
        finally:
            member.open.remove(call.law)
        world.note("complete")
        call.law.check_rows(rows)
        call.law.check_end(world.time_s, joined_s, holders)
        self.num_complete += 1

    def shadow(self, successor):
        """Compare both placements, as ``TopologySwitch.shadow`` does; whether all has answered."""
        members = (self.member, successor)
        for layer in range(self._schedule.num_layers):
            successor.exchange.poll()
            calls = [self._begin(member, layer, 0) for member in members]
            is_complete = self._compare(calls)
            for member in members:
                if not is_complete:
                    member.exchange.abandon()
                member.close_calls()
            if not is_complete:
                return False
        return True

    @staticmethod
    def _compare(calls):
        try:
            for call in calls:
                call.law.check_rows(call.away.wait(SHADOW_PATIENCE_S))
        except GalerneError:
            return False
        return True

    def idle(self, seconds):
        """No request; the engine looks for events now and then."""
        end_s = self._world.time_s + seconds
        while self._world.time_s < end_s:
            self._world.run_until(min(self._world.time_s + LONG_S, end_s))
            self.member.exchange.poll()

    def commit(self, successor):
        """Between two steps the pointer is swapped, and the old exchange released."""
        old, self.member = self.member, successor
        old.exchange.close()
        old.check_nothing_is_away()
        self._world.note("commit", successor.topology.epoch)
        return old
