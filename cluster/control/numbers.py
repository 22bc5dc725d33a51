"""The few numbers that tell how a deployment is, for a page that is not ours. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from cluster.control.members import MemberBook
from galerne.topology import Topology
from router.engine.load_counter import LoadTotals


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNumbers:
    """One look. What each says is the metric's text."""

    tokens_per_s: float = field(metadata={"text": "Tokens that went out, since the last export."})
    requests_running: float = field(metadata={"text": "Sequences in steps, of all gateways."})
    requests_waiting: float = field(metadata={"text": "Requests in the gateways' queues."})
    gateways_up: float = field(metadata={"text": "Gateways of the topology that live."})
    shards_up: float = field(metadata={"text": "Expert shards of the topology that live."})
    parts_wanted: float = field(metadata={"text": "Gateways and shards of the topology."})
    shards_lost: float = field(metadata={"text": "Shards that count as lost now."})
    epoch: float = field(metadata={"text": "Epoch that serves."})


class TokenRate:
    """Tokens a second, from cumulative reports of processes that come and go."""

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}
        self._seen_s: float | None = None

    def per_s(self, tokens_by_process: Mapping[Hashable, int], now_s: float) -> float:
        """Since the last look; a process counts from the first one at it."""
        more = sum(
            tokens - self._known.get(process, tokens)
            for process, tokens in tokens_by_process.items()
        )
        before_s, self._seen_s = self._seen_s, now_s
        self._known = dict(tokens_by_process)
        return 0.0 if before_s is None or now_s <= before_s else more / (now_s - before_s)


def tokens_of(load: LoadTotals) -> int:
    """All that an engine has sent: first ones and others."""
    return load.ttft_s.count + load.inter_token_s.count


def look(
    members: MemberBook, topology: Topology, num_lost: int, rate: TokenRate, now_s: float
) -> ClusterNumbers:
    """What parts have said of themselves, added up."""
    live = [p for p in topology.parts if members.is_live(p)]
    told = [members.members[p].told for p in live if p in topology.gateways]
    loads = {t.process: t.load for t in told if t.load is not None}
    return ClusterNumbers(
        tokens_per_s=rate.per_s({p: tokens_of(load) for p, load in loads.items()}, now_s),
        requests_running=sum(load.running for load in loads.values()),
        requests_waiting=sum(load.waiting for load in loads.values()),
        gateways_up=len(told),
        shards_up=len(live) - len(told),
        parts_wanted=len(topology.parts),
        shards_lost=num_lost,
        epoch=topology.epoch,
    )
