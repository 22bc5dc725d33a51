"""The gateway as a Ray actor."""

from __future__ import annotations

from typing import Any

import psutil

from cluster.actors.launch_spec import NAMESPACE, LaunchSpec
from cluster.actors.reporting import PartState, Reporter
from cluster.actors.shard import bind_host
from cluster.directory import RayAddressBook
from galerne.ids import GatewayId
from galerne.topology import Topology
from router.gateway.host import GatewayHost
from router.gateway.settings import GatewaySettings


class Gateway:
    """Hosts one gateway; frontends reach it by gRPC, never through Ray."""

    def __init__(self, spec: LaunchSpec, gateway_id: GatewayId, first: Topology) -> None:
        """``first``: to start in; a restarted one starts in what serves by then."""
        reporter = Reporter(spec, gateway_id)
        with reporter.starting():
            settings = GatewaySettings(
                gateway_id=gateway_id,
                checkpoint=spec.checkpoint,
                model_name=spec.model_name,
                numerics=spec.numerics,
                experts=spec.experts,
                dense=spec.dense,
                topology=reporter.start_topology(first),
                cluster_token=spec.cluster_token,
                tls=spec.tls,
                max_model_len=spec.max_model_len,
                kv_bytes=spec.kv_bytes,
                num_threads=spec.gateway_threads,
                num_beside=spec.gateway_threads_beside,
                host=bind_host(spec),
                vision=spec.vision,
                record=spec.record,
                adapters_root=spec.adapters,
                adapters=reporter.start_adapters() if spec.adapters is not None else (),
                speculation=spec.speculation,
            )
            book = RayAddressBook(spec.controller_name, NAMESPACE)
            self._host = GatewayHost(settings, book, reporter.progress, reporter.wake)
            self._reporter = reporter
            reporter.start_heartbeats(self._state)

    def _state(self) -> PartState:
        host = self._host
        links = {str(shard): state.value for shard, state in host.links.items()}
        epochs = (host.switch.topology.epoch,)
        return PartState(
            *(host.address, host.engine.is_alive, epochs, links, host.load_totals()),
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

    def drain(self, drain_s: float) -> None:
        """Finish what runs within the deadline, then stop."""
        self._reporter.stop()
        self._host.stop(drain_s)
