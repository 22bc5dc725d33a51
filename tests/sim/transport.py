"""The simulated wire: a ``Transport`` whose ``receive`` lets virtual time pass."""

from collections import deque
from dataclasses import dataclass, replace

import torch

from galerne.frame import FrameHeader, FrameKind
from galerne.ids import FrameId
from router.exchange.dispatch import rows_of, slots_by_owner
from router.exchange.transport import Answer, LinkDown, LinkUp, OutgoingFrame
from shards.jobs import Job
from shards.wire import RequestRows
from sim.bits import HIDDEN
from sim.laws import Law, Violation
from sim.network import Link

_MOST_LOOKS = 3_000  # at one moment


@dataclass(frozen=True, kw_only=True)
class Style:
    """What a transport may do, and not all do."""

    sends_calls: bool  # whole calls at once, as through rings
    coalesces: bool  # wakes its caller only when all has come that it awaits
    tells_age: bool


class SimTransport:
    """Implements ``Transport``."""

    row_shape = (HIDDEN,)

    def __init__(self, network, shards, hello, ledger, style):
        """``shards`` by name."""
        self.world, self.ledger, self.epoch = network.world, ledger, hello.epoch
        self.on_look = lambda: None  # called whenever the exchange waits or looks
        self._style = style
        self._shards = tuple(shards)
        self._inbox = deque()  # (event, when it came)
        self._num_urgent = 0
        self._down = set(shards)  # by the events that were taken
        self._looks = (0.0, 0)
        self._is_closed = False
        self._links = {name: Link(network, shard, hello, self) for name, shard in shards.items()}

    def emit(self, event):
        """An event has come; called by links."""
        if not self._is_closed:
            self._inbox.append((event, self.world.time_s))
            self._num_urgent += not isinstance(event, Answer)

    def send(self, frame: OutgoingFrame):
        """See ``Transport``."""
        if self._is_closed:
            return
        key = (frame.step, frame.layer, frame.micro_batch)
        self.ledger.sent(frame.shard, frame.frame, key, frame.rows.slots)
        self._put(frame)

    def _put(self, frame):
        self.world.note("send", self.epoch, frame.shard, frame.frame, frame.attempt)
        connection = self._links[frame.shard].connection
        if connection is None:
            return
        header = FrameHeader(
            kind=FrameKind.REQUEST,
            epoch=self.epoch,
            step=frame.step,
            frame=frame.frame,
            layer=frame.layer,
            micro_batch=frame.micro_batch,
            attempt=frame.attempt,
        )
        rows = frame.rows
        payload = RequestRows(frame.tokens, rows.expert_ids, rows.num_rows_by_group, rows.row_token)
        connection.request(Job(header, payload, connection))

    def send_call(self, call):
        """See ``Transport``."""
        if self._is_closed or self._down or not self._style.sends_calls or not call.expert_ids.size:
            return None
        parts = slots_by_owner(call.expert_ids, call.owner, len(self._shards))
        if max(map(len, parts)) > call.row_budget:
            return None
        sent = SimSentCall(self)
        for number, (shard, slots) in enumerate(zip(self._shards, parts, strict=True)):
            if not len(slots):
                continue
            frame = OutgoingFrame(
                shard=shard,
                frame=FrameId(call.first_frame + number),
                attempt=0,
                step=call.step,
                layer=call.layer,
                micro_batch=call.micro_batch,
                rows=rows_of(call.expert_ids, slots),
                source=call.source,
            )
            sent.slots_by_shard[shard] = slots
            sent.frames[shard] = frame.frame
            self.send(frame)
        self.world.note("whole call", call.layer, call.micro_batch)
        return sent

    def receive(self, timeout_s, num_awaited=1):
        """See ``Transport``."""
        wanted = num_awaited if self._style.coalesces and not self._inbox else 1
        self.wait(timeout_s, lambda: self._num_urgent or len(self._inbox) >= wanted)
        return self.take() if self._inbox else None

    def wait(self, timeout_s, is_due):
        """Let time pass until something is due. Raises Violation if a caller never sleeps."""
        now_s, num_looks = self._looks
        self._looks = (self.world.time_s, num_looks + 1 if now_s == self.world.time_s else 0)
        if num_looks > _MOST_LOOKS:
            raise Violation(Law.ENDS, "the exchange looks for events and never sleeps")
        self.on_look()
        self.world.run_until(self.world.time_s + max(timeout_s, 0.0), is_due)

    @property
    def next_event(self):
        return self._inbox[0][0] if self._inbox else None

    def take(self):
        """The next event."""
        event, came_s = self._inbox.popleft()
        self.ledger.took(event)
        frame = getattr(event, "frame", "")
        self.world.note("take", self.epoch, type(event).__name__, event.shard, frame)
        if isinstance(event, Answer):
            age_s = self.world.time_s - came_s
            return replace(event, age_s=age_s) if self._style.tells_age else event
        self._num_urgent -= 1
        if isinstance(event, LinkUp):
            self._down.discard(event.shard)
        elif isinstance(event, LinkDown):
            self._down.add(event.shard)
        return event

    def close(self):
        """See ``Transport``."""
        self._is_closed = True
        self._inbox.clear()
        self._num_urgent = 0
        for link in self._links.values():
            link.close()


class SimSentCall:
    """Implements ``SentCall``."""

    def __init__(self, transport):
        self._transport = transport
        self.slots_by_shard, self.frames = {}, {}

    def collect(self, out, timeout_s):
        """See ``SentCall``: takes from the inbox as long as nothing else comes."""
        transport, world = self._transport, self._transport.world
        missing, came_s = dict(self.frames), {}
        end_s = world.time_s + timeout_s
        while missing:
            transport.wait(end_s - world.time_s, lambda: transport.next_event)
            event = transport.next_event
            if not isinstance(event, Answer) or missing.get(event.shard) != event.frame:
                break
            slots = self.slots_by_shard[event.shard]
            if len(event.rows) != len(slots):
                break
            out[torch.from_numpy(slots)] = transport.take().rows
            came_s[event.shard] = world.time_s
            del missing[event.shard]
        return {shard: world.time_s - at_s for shard, at_s in came_s.items()}
