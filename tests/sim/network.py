"""Links as TCP makes them: what stands delivers, or falls silent and breaks; new ones are tried."""

from dataclasses import dataclass
from functools import partial

import torch

from galerne.errors import HelloRefusedError, OverloadedError, ProtocolError
from galerne.ids import FrameId
from router.exchange.transport import Adopted, Answer, LinkDown, LinkUp, Refusal

KEEPALIVE_S = 15.0  # of silence: ``keepalive_time_ms`` and ``keepalive_timeout_ms`` of the hello
BACKOFF_S = (0.05, 0.25)  # ``LinkConfig``


@dataclass(frozen=True, kw_only=True)
class Weather:
    """What happens to single messages."""

    delay_s: float  # median, one way
    spread: float  # sigma of its logarithm
    reorders: bool  # answers may overtake each other
    duplicate: float  # probabilities, of every message
    tail: float  # everything behind it waits for a retransmission
    loss: float  # the link breaks, or falls silent for good
    refusal: float  # for now
    short: float  # an answer lacks a row
    confusion: float  # an answer to a frame of another shard


CALM = Weather(
    delay_s=0.0005,
    spread=0.1,
    reorders=False,
    duplicate=0.0,
    tail=0.0,
    loss=0.0,
    refusal=0.0,
    short=0.0,
    confusion=0.0,
)


class Network:
    """What all links share."""

    def __init__(self, world, rng, weather):
        self.world, self.rng, self.weather = world, rng, weather
        self._cut_until_s = {}

    def chance(self, probability):
        return self.rng.random() < probability

    def delay_s(self):
        return self.weather.delay_s * self.rng.lognormvariate(0.0, self.weather.spread)

    def cut(self, shard, seconds):
        """Partition a shard from everybody, both ways; held back is what is sent meanwhile."""
        until_s = max(self.cut_until_s(shard), self.world.time_s + seconds)
        self._cut_until_s[shard.id] = until_s
        shard.refresh()
        self.world.at(until_s, shard.refresh)

    def cut_until_s(self, shard):
        return self._cut_until_s.get(shard.id, 0.0)


class Link:
    """A gateway's way to one shard: connects, greets, connects again."""

    def __init__(self, network, shard, hello, transport):
        self.shard, self.connection = shard, None
        self._network, self._hello, self._transport = network, hello, transport
        self._is_closed = False
        network.world.after(network.delay_s(), self._attempt)

    def close(self):
        self._is_closed = True
        if self.connection is not None:
            self.connection.end()
            self.connection = None

    def broke(self, reason):
        self.connection = None
        self._transport.emit(LinkDown(self.shard.id, reason))
        self._retry()

    def _retry(self):
        self._network.world.after(self._network.rng.uniform(*BACKOFF_S), self._attempt)

    def _can_reach(self):
        cut_until_s = self._network.cut_until_s(self.shard)
        return self.shard.is_responsive and cut_until_s <= self._network.world.time_s

    def _attempt(self):
        if self._is_closed:
            return
        if not self._can_reach() or not self._is_welcome():
            self._retry()
            return
        round_trip_s = self._network.delay_s() + self._network.delay_s()
        self._network.world.after(round_trip_s, partial(self._establish, self.shard.life))

    def _is_welcome(self):
        try:
            self.shard.greet(self._hello)
        except HelloRefusedError:
            return False
        return True

    def _establish(self, life):
        if self._is_closed:
            return
        if not self._can_reach() or self.shard.life != life:
            self._retry()
            return
        self.connection = Connection(self._network, self, self._transport)
        self._transport.emit(LinkUp(self.shard.id))
        if self.shard.adopted:
            self.connection.tell_adopted()


class Connection:
    """One standing stream. Implements ``AnswerLink`` for the shard."""

    def __init__(self, network, link, transport):
        self._network, self._link, self._transport = network, link, transport
        self._world, self._shard = network.world, link.shard
        self._is_broken = self._is_lost = False
        self._free_at_s = 0.0  # of retransmissions
        self._silent_since_s = None
        self._last_due_s = {"to": 0.0, "from": 0.0}
        self.epoch = transport.epoch
        self._shard.connections.append(self)
        self.refresh()

    def request(self, job):
        self._carry("to", partial(self._shard.take, job))

    def answer(self, header, rows):
        """See ``AnswerLink``."""
        network, weather = self._network, self._network.weather
        rows = rows[:-1] if network.chance(weather.short) else rows
        event = Answer(self._shard.id, FrameId(header.frame), rows)
        self._carry("from", partial(self._transport.emit, event))
        if network.chance(weather.duplicate):
            self._carry("from", partial(self._transport.emit, event))
        if network.chance(weather.confusion):
            self._confuse()

    def refuse(self, header, error):
        """See ``AnswerLink``; what the gateway makes of it is as in ``grpc_link``."""
        seen = OverloadedError(str(error), 0, 0.0)
        if not error.is_retryable:
            seen = ProtocolError(f"refused by the shard: {error}")
        event = Refusal(self._shard.id, FrameId(header.frame), seen)
        self._carry("from", partial(self._transport.emit, event))

    def tell_adopted(self):
        """All that the shard holds for others."""
        event = Adopted(self._shard.id, self._shard.adopted)
        self._carry("from", partial(self._transport.emit, event))

    def _confuse(self):
        """Nonsense under the number of a frame that another shard was asked."""
        foreign = self._transport.ledger.frames_of_others(self._shard.id)
        if foreign:
            frame, num_rows = self._network.rng.choice(foreign)
            rows = torch.full((num_rows, *self._transport.row_shape), 7, dtype=torch.int64)
            self._carry("from", partial(self._transport.emit, Answer(self._shard.id, frame, rows)))

    def _carry(self, way, deliver):
        network, weather = self._network, self._network.weather
        if network.chance(weather.loss):
            self.lose() if network.chance(0.5) else self.break_off("lost")
        if network.chance(weather.tail):
            self.block(10 ** network.rng.uniform(-2.0, 0.6))
        due_s = self._world.time_s + network.delay_s()
        if way == "from" and weather.reorders:
            due_s += network.rng.uniform(0.0, 10.0) * weather.delay_s
        else:
            due_s = self._last_due_s[way] = max(due_s, self._last_due_s[way])
        self._world.at(due_s, partial(self._arrive, deliver))

    def _arrive(self, deliver):
        if self._is_broken or self._is_lost:
            return
        if self._free_s() > self._world.time_s:
            self._world.at(self._free_s(), partial(self._arrive, deliver))
        else:
            deliver()

    def _free_s(self):
        return max(self._free_at_s, self._network.cut_until_s(self._shard))

    def block(self, seconds):
        """Nothing moves for a while, nothing is lost."""
        self._free_at_s = max(self._free_at_s, self._world.time_s + seconds)
        self.refresh()
        self._world.at(self._free_at_s, self.refresh)

    def lose(self):
        """Nothing moves any more, and nobody is told before the keep-alive."""
        self._is_lost = True
        self.refresh()

    def break_off(self, reason):
        """Both ends see the end."""
        if not self._is_broken:
            self.end()
            self._link.broke(reason)

    def end(self):
        self._is_broken = True
        self._shard.connections.remove(self)
        self._transport.ledger.holders.note_sound(self._shard.id, is_sound=False)
        self._transport.ledger.holders.note_kept(self._shard.id, frozenset())

    def refresh(self):
        """Something has changed here, on the way, or at the shard."""
        if self._is_broken:
            return
        is_silent = (
            self._is_lost or self._free_s() > self._world.time_s or not self._shard.is_responsive
        )
        if not is_silent:
            self._silent_since_s = None
        elif self._silent_since_s is None:
            self._silent_since_s = self._world.time_s
            self._world.after(KEEPALIVE_S, partial(self._keep_alive, self._silent_since_s))
        is_well = self._shard.is_well and self._shard.is_told_to_serve(self.epoch)
        holders = self._transport.ledger.holders
        holders.note_sound(self._shard.id, is_sound=is_well and not is_silent)
        holders.note_kept(self._shard.id, self._shard.kept)

    def _keep_alive(self, silent_since_s):
        if self._silent_since_s == silent_since_s:
            self.break_off("keep-alive")
