"""The expert shard as a Ray actor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import psutil

from cluster.actors.launch_spec import LaunchSpec
from cluster.actors.reporting import PartState, Reporter
from galerne import logs
from galerne.ids import ShardId
from galerne.topology import Topology


class ExpertShard:
    """Hosts one shard; Ray restarts it, and it reports its new address."""

    def __init__(
        self, spec: LaunchSpec, shard_id: ShardId, first: Topology, environment: Mapping[str, str]
    ) -> None:
        """As ``Gateway``."""
        os.environ.update(environment)
        logs.set_up(spec.logs, shard_id)
        self._name = spec.actor_name(shard_id)
        reporter = Reporter(spec, shard_id)
        with reporter.starting():
            from cluster.actors.hosts import start_shard  # late: loads torch

            topology = reporter.start_topology(first)
            self._host = start_shard(spec, shard_id, topology, reporter)
            reporter.start_heartbeats(self._state)

    def _state(self) -> PartState:
        host = self._host
        return PartState(host.address, host.is_alive, host.epochs, adapters=host.adapters)

    def describe(self) -> dict[str, Any]:
        """Facts for status and metrics."""
        return {"rss_bytes": psutil.Process().memory_info().rss, **self._host.describe()}

    def set_log_level(self, level: str) -> None:
        """Log so much from now on."""
        logs.set_level(level)

    def __repr__(self) -> str:
        """For Ray's pages and logs."""
        return f"ExpertShard({self._name})"
