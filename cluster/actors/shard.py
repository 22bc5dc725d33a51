"""The expert shard as a Ray actor."""

from __future__ import annotations

from typing import Any

import psutil
import ray

from cluster.actors.launch_spec import LaunchSpec
from cluster.actors.reporting import PartState, Reporter
from galerne.ids import ShardId
from galerne.topology import Topology
from router.gateway.settings import DTYPES, numerics_profile
from shards.host import ShardHost, ShardSettings


class ExpertShard:
    """Hosts one shard; Ray restarts it, and it reports its new address."""

    def __init__(self, spec: LaunchSpec, shard_id: ShardId, first: Topology) -> None:
        """``first``: to start in; a restarted one starts in what serves by then."""
        reporter = Reporter(spec, shard_id)
        with reporter.starting():
            topology = reporter.start_topology(first)
            settings = ShardSettings(
                shard_id=shard_id,
                checkpoint=spec.checkpoint,
                experts_by_layer=topology.placement.experts_of(shard_id),
                dtype=DTYPES[spec.numerics],
                held=spec.experts,
                numerics_profile=numerics_profile(spec.numerics, spec.experts, spec.dense),
                cluster_token=spec.cluster_token,
                tls=spec.tls,
                epochs=(topology.epoch,),
                host=bind_host(spec),
                num_threads=spec.shard_threads,
                core=_own_core(spec, topology, shard_id),
                adapters_root=spec.adapters,
                adapters=reporter.start_adapters() if spec.adapters is not None else (),
            )
            self._host = ShardHost(
                settings, lambda done, of: reporter.progress("experts", done, of)
            )
            reporter.start_heartbeats(self._state)

    def _state(self) -> PartState:
        host = self._host
        return PartState(host.address, host.is_alive, host.epochs, adapters=host.adapters)

    def describe(self) -> dict[str, Any]:
        """Facts for status and metrics."""
        return {"rss_bytes": psutil.Process().memory_info().rss, **self._host.describe()}


def _own_core(spec: LaunchSpec, topology: Topology, shard_id: ShardId) -> int | None:
    """Shards on one node take its cores in turn."""
    shards = topology.shards
    is_alone = len(shards) == 1 or not spec.is_one_node
    return None if is_alone else shards.index(shard_id)


def bind_host(spec: LaunchSpec) -> str:
    """Where internal ports bind: loopback, or this node's address on a trusted network."""
    return "127.0.0.1" if spec.is_one_node else str(ray.util.get_node_ip_address())
