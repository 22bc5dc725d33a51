"""The gateway as a Ray actor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import psutil

from cluster.actors.launch_spec import LaunchSpec
from cluster.actors.reporting import PartState, Reporter
from galerne import logs
from galerne.ids import GatewayId
from galerne.topology import Topology


class Gateway:
    """Hosts one gateway; frontends reach it by gRPC, never through Ray."""

    def __init__(
        self,
        spec: LaunchSpec,
        gateway_id: GatewayId,
        first: Topology,
        environment: Mapping[str, str],
    ) -> None:
        """Made in any worker process of Ray's, which has not loaded torch yet.

        Args:
            spec: Of the deployment.
            gateway_id: Its own.
            first: To start in; a restarted one starts in what serves by then.
            environment: Variables that torch and the kernels read when they are loaded. Not Ray's
                ``runtime_env``, for which Ray would start another process, through an agent.
        """
        os.environ.update(environment)
        logs.set_up(spec.logs, gateway_id)
        self._name = spec.actor_name(gateway_id)
        reporter = Reporter(spec, gateway_id)
        with reporter.starting():
            from cluster.actors.hosts import start_gateway  # late: loads torch

            topology = reporter.start_topology(first)
            self._host = start_gateway(spec, gateway_id, topology, reporter)
            self._reporter = reporter
            reporter.start_heartbeats(self._state)

    def _state(self) -> PartState:
        host = self._host
        links = {str(shard): state.value for shard, state in host.links.items()}
        epochs = (host.switch.topology.epoch,)
        return PartState(
            *(host.address, host.is_alive, epochs, links, host.load_totals()),
            host.adapters.ids,
        )

    def describe(self) -> dict[str, Any]:
        """Facts for status and metrics."""
        facts = self._host.describe(with_metrics=True)
        return {
            "rss_bytes": psutil.Process().memory_info().rss,
            "kv_tokens": facts.kv_tokens,
            "running": facts.load.running,
            "waiting": facts.load.waiting,
            "steps": facts.steps,
            "links": dict(facts.links),
            "unready_reason": facts.unready_reason,
            "seconds_by_part": dict(facts.seconds_by_part),
            "metrics": facts.metrics,
        }

    def set_log_level(self, level: str) -> None:
        """Log so much from now on."""
        logs.set_level(level)

    def drain(self, drain_s: float) -> None:
        """Finish what runs within the deadline, then stop."""
        self._reporter.stop()
        self._host.stop(drain_s)

    def __repr__(self) -> str:
        """For Ray's pages and logs."""
        return f"Gateway({self._name})"
