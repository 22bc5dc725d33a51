"""What a transport was asked to send, counted apart from the session, and held against its budget.

It knows only what passes: frames out, events in.
"""

from dataclasses import dataclass

import numpy as np

from router.exchange.links import LinkState
from router.exchange.transport import Adopted, Answer, LinkDown, LinkUp, Refusal
from shards.residency import as_set
from sim.holders import Holders
from sim.laws import Law, Violation


@dataclass(eq=False)
class Asked:
    """Rows of one call, by slot."""

    layer: int
    expert_ids: np.ndarray  # [T, K]
    asked: np.ndarray  # [T * K]
    filled: np.ndarray  # [T * K]


@dataclass(eq=False)
class Away:
    """A frame that is not answered."""

    call: Asked
    slots: np.ndarray


class Ledger:
    """Rows of one exchange."""

    def __init__(self, world, topology, config):
        self._world, self._topology, self._config = world, topology, config
        self._started_s = world.time_s
        self._calls = {}  # by (step, layer, micro-batch)
        self._away = {shard: {} for shard in topology.shards}
        self._frames = set()
        self.holders = Holders(world, topology)
        self.rows_sent = self.rows_resent = self.rows_owed = 0
        self.link_states = {}  # as the session sees them

    def open(self, key, expert_ids):
        size = expert_ids.size
        self._calls[key] = Asked(key[1], expert_ids, np.zeros(size, bool), np.zeros(size, bool))

    def close(self):
        """The calls of a step are over."""
        self._calls.clear()

    def sent(self, shard, frame, key, slots):
        """Rows go out. Raises Violation."""
        call = self._calls.get(key)
        if call is None:
            raise Violation(Law.FRAMES, f"frame {frame} is for a call that is over")
        self._check_frame(shard, frame, slots, call)
        self._frames.add(frame)
        self._away[shard][frame] = Away(call, slots)
        self.rows_sent += len(slots)
        self.rows_resent += int(call.asked[slots].sum())
        call.asked[slots] = True
        self._check_budget()

    def _check_frame(self, shard, frame, slots, call):
        if frame in self._frames:
            raise Violation(Law.FRAMES, f"frame number {frame} is used twice")
        if not 0 < len(slots) <= self._topology.row_budget:
            raise Violation(Law.FRAMES, f"frame {frame} has {len(slots)} rows")
        if self.link_states.get(shard) is LinkState.DOWN:
            raise Violation(Law.FRAMES, f"frame {frame} goes to {shard}, which is down")
        if call.filled[slots].any():
            raise Violation(Law.FRAMES, f"frame {frame} asks for rows that are here")
        for expert in np.unique(call.expert_ids.reshape(-1)[slots]).tolist():
            if not self.holders.holds(shard, call.layer, expert):
                raise Violation(Law.FRAMES, f"frame {frame} asks {shard} for expert {expert}")
        for other in self._away[shard].values():
            if other.call is call and np.isin(other.slots, slots).any():
                raise Violation(Law.FRAMES, f"frame {frame} asks {shard} for what it owes")

    def _check_budget(self):
        config = self._config
        earned = (
            config.resend_burst_rows
            + config.resend_share * self.rows_sent
            + config.resend_rows_per_s * (self._world.time_s - self._started_s)
        )
        if self.rows_resent > earned + self.rows_owed + 1e-6:
            raise Violation(
                Law.BUDGET,
                f"{self.rows_resent} rows asked again, {earned:.1f} earned, {self.rows_owed} owed",
            )

    def took(self, event):
        """The exchange gets an event."""
        match event:
            case Answer(shard, frame, rows):
                away = self._away[shard].pop(frame, None)
                if away is not None and len(rows) == len(away.slots):
                    away.call.filled[away.slots] = True
            case Refusal(shard, frame):
                self._away[shard].pop(frame, None)
            case LinkDown(shard):
                self.rows_owed += sum(len(away.slots) for away in self._away[shard].values())
                self._away[shard].clear()
                self.holders.note_link(shard, is_up=False)
            case LinkUp(shard):
                self.holders.note_link(shard, is_up=True)
            case Adopted(shard, experts_by_layer):
                self.holders.note_told(shard, as_set(experts_by_layer))

    def frames_of_others(self, shard):
        """Frames, and their rows, that other shards have not answered."""
        return [
            (frame, len(away.slots))
            for other, frames in self._away.items()
            if other != shard
            for frame, away in frames.items()
        ]
