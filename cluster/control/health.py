"""Which shards are lost, judged from what gateways say of their links. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from galerne.ids import GatewayId, ShardId
from router.exchange.links import LinkState


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthConfig:
    """How long a link may be in trouble before its shard counts as lost."""

    down_s: float = 0.2  # a link that stood and broke: the process is gone, or its host
    suspect_s: float = 1.0  # a link that stands and does not answer
    never_up_s: float = 5.0  # a link that nobody has seen up, as after a restart of ours
    silent_s: float = 5.0  # what a gateway said counts for so long
    release_s: float = 5.0  # a shard that is back must stay so before adopted experts are released


@dataclass(slots=True)
class _Link:
    state: LinkState
    since_s: float
    was_up: bool
    heard_s: float


class HealthBook:
    """Link states by gateway and shard, and since when."""

    def __init__(self, config: HealthConfig | None = None) -> None:
        self._config = config or HealthConfig()
        self._links: dict[tuple[GatewayId, ShardId], _Link] = {}

    def observe(
        self, gateway: GatewayId, states: Mapping[ShardId, LinkState], now_s: float
    ) -> list[tuple[ShardId, LinkState]]:
        """Take in a gateway's view of all its links; what has changed."""
        changed = []
        for shard, state in states.items():
            link = self._links.get((gateway, shard))
            if link is None:
                is_up = state is LinkState.UP
                self._links[gateway, shard] = _Link(state, now_s, is_up, now_s)
                continue
            link.heard_s = now_s
            if link.state is not state:
                link.state, link.since_s = state, now_s
                link.was_up = link.was_up or state is LinkState.UP
                changed.append((shard, state))
        return changed

    def forget(self, gateway: GatewayId) -> None:
        """A gateway has started anew: its links have never been up."""
        self._links = {key: link for key, link in self._links.items() if key[0] != gateway}

    def lost(self, now_s: float) -> frozenset[ShardId]:
        """Shards that a gateway has lost. One is enough: adopting does no harm to the others."""
        return frozenset(
            shard for (_, shard), link in self._links.items() if now_s >= self._lost_at(link, now_s)
        )

    def next_s(self, now_s: float) -> float | None:
        """When a link that is in trouble now will count as lost."""
        times = [self._lost_at(link, now_s) for link in self._links.values()]
        return min((t for t in times if now_s < t < float("inf")), default=None)

    def _lost_at(self, link: _Link, now_s: float) -> float:
        config = self._config
        if link.state is LinkState.UP or now_s - link.heard_s > config.silent_s:
            return float("inf")
        if not link.was_up:
            return link.since_s + config.never_up_s
        is_down = link.state is LinkState.DOWN
        return link.since_s + (config.down_s if is_down else config.suspect_s)
