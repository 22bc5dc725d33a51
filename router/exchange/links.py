"""What a gateway believes of its shards. Suspicion redirects, it does not accuse."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import TypeAlias

from galerne.ids import ShardId


class LinkState(enum.Enum):
    """State of one link."""

    UP = "up"
    SUSPECT = "suspect"  # missed a deadline; its late answers still count
    DOWN = "down"


OnLinkChange: TypeAlias = Callable[[ShardId, LinkState], None]


class LinkBook:
    """Link states by shard."""

    def __init__(self, shards: Iterable[ShardId], on_change: OnLinkChange | None = None) -> None:
        self.state: dict[ShardId, LinkState] = dict.fromkeys(shards, LinkState.DOWN)
        self._on_change = on_change

    def up(self, shard: ShardId) -> None:
        """The link stands."""
        self._move(shard, LinkState.UP)

    def down(self, shard: ShardId) -> None:
        """The link broke."""
        self._move(shard, LinkState.DOWN)

    def suspect(self, shard: ShardId) -> bool:
        """A deadline passed; whether that changed anything."""
        if self.state[shard] is not LinkState.UP:
            return False
        self._move(shard, LinkState.SUSPECT)
        return True

    def heard_from(self, shard: ShardId) -> None:
        """An answer clears a suspect."""
        if self.state[shard] is LinkState.SUSPECT:
            self._move(shard, LinkState.UP)

    @property
    def are_all_up(self) -> bool:
        """Whether no shard is to be avoided."""
        return all(state is LinkState.UP for state in self.state.values())

    @property
    def healthy(self) -> frozenset[ShardId]:
        """Shards to prefer."""
        return frozenset(s for s, state in self.state.items() if state is LinkState.UP)

    @property
    def reachable(self) -> frozenset[ShardId]:
        """Shards that a frame can be sent to at all."""
        return frozenset(s for s, state in self.state.items() if state is not LinkState.DOWN)

    def _move(self, shard: ShardId, state: LinkState) -> None:
        if self.state[shard] is not state:
            self.state[shard] = state
            if self._on_change is not None:
                self._on_change(shard, state)
