"""Runs a gateway in this process: engine thread, and ``GatewayService`` on the gRPC loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import grpc

from galerne.hello import SERVICE_OPTIONS
from galerne.ids import ShardId
from galerne.internal_tls import add_port
from galerne.loop_thread import grpc_loop
from galerne.part_health import add_part_health
from galerne.topology import Topology
from galerne.topology_codec import encode_topology
from galerne.v1 import internal_pb2 as internal
from galerne.v1 import internal_pb2_grpc
from router.engine.guide import Guide
from router.engine.load_counter import LoadTotals
from router.engine.request import GenerationRequest
from router.exchange.grpc_link import AddressBook
from router.exchange.links import LinkState
from router.gateway.build import Progress, build_gateway
from router.gateway.codec import encode_facts, encode_load
from router.gateway.metrics import show_gateway
from router.gateway.service import DeltaHub, GatewayServicer
from router.gateway.settings import GatewaySettings
from shards.nccl.metrics import show_nccl

_TIMEOUT_S = 10.0


class GatewayHost:
    """A running gateway."""

    def __init__(
        self,
        settings: GatewaySettings,
        book: AddressBook | None,
        on_progress: Progress = lambda what, done, of: None,
        on_link_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Load, connect and serve; returns when the port listens (links may still come up).

        ``on_link_change`` is called on the engine's thread.

        Raises:
            CheckpointError, ConfigError: See ``build_gateway``.
        """
        self._settings = settings
        self.hub = DeltaHub(self._guides_of)
        self.hub.bind(grpc_loop().loop)
        self._built = build_gateway(
            settings, book, self.hub.publish, on_progress, on_link_change=on_link_change
        )
        self.switch = self._built.switch
        self.adapters = self._built.adapters
        self.engine = self._built.engine
        self.facts = self._built.facts
        self.num_kv_tokens = self._built.num_kv_tokens
        show_gateway(self.engine.metrics.set, self)
        show_nccl(self.engine.metrics.set, self._built.nccl)
        self.engine.start()
        self._server, port = grpc_loop().run(self._serve(), _TIMEOUT_S)
        self.address = f"{settings.host}:{port}"

    async def _serve(self) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=SERVICE_OPTIONS)
        servicer = GatewayServicer(
            *(self.engine, self.hub, self._settings.cluster_token, self._describe, self.switch),
            *(self.adapters, self._built.tracer),
        )
        internal_pb2_grpc.add_GatewayServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
        engine = self.engine
        ready = {"galerne.v1.GatewayService": lambda: engine.unready_reason() is None}
        add_part_health(server, lambda: engine.is_alive, ready)
        port = add_port(server, f"{self._settings.host}:0", self._settings.tls)
        await server.start()
        return server, port

    async def _guides_of(self, request: GenerationRequest) -> Sequence[Guide]:
        return await self._built.guides.guides(request)

    @property
    def is_alive(self) -> bool:
        """Whether the engine runs, and NCCL has not eaten too many threads."""
        return self.engine.is_alive and self._built.nccl.is_healthy

    @property
    def links(self) -> Mapping[ShardId, LinkState]:
        """State of every link that serves."""
        return self._built.runner.exchange.links

    @property
    def topology(self) -> Topology:
        """What is served."""
        return self.switch.topology

    @property
    def unready_reason(self) -> str | None:
        """See ``Engine.unready_reason``."""
        return self.engine.unready_reason()

    @property
    def num_parked(self) -> int:
        """Streams that are kept for a client to come back."""
        return self.hub.held.num_parked

    @property
    def adapter_ids(self) -> Collection[str]:
        """Adapters that are loaded."""
        return self.adapters.ids

    def _describe(self, request: internal.DescribeGatewayRequest) -> internal.GatewayDescription:
        description = self.describe(request.with_metrics)
        if request.with_topology:
            description.topology.CopyFrom(encode_topology(self.switch.topology))
        return description

    def describe(self, with_metrics: bool = False) -> internal.GatewayDescription:
        """What the gateway says of itself."""
        topology = self.switch.topology
        return internal.GatewayDescription(
            gateway_id=self._settings.gateway_id,
            model=encode_facts(self.facts),
            load=encode_load(self.engine.load()),
            kv_tokens=self.num_kv_tokens,
            links={shard: state.value for shard, state in self.links.items()},
            max_num_seqs=topology.max_num_seqs,
            max_batched_tokens=topology.max_batched_tokens,
            unready_reason=self.unready_reason or "",
            steps=self.engine.num_steps,
            epoch=topology.epoch,
            metrics=self.engine.metrics_text() if with_metrics else b"",
            seconds_by_part=self._seconds_by_part(),
        )

    def load_totals(self) -> LoadTotals:
        """All load since the gateway began, for the autoscaler."""
        return replace(
            self.engine.load_totals(),
            seconds_by_part=self._seconds_by_part(),
            parked=self.num_parked,
        )

    def _seconds_by_part(self) -> dict[str, float]:
        return self._built.runner.timer.snapshot() | self.engine.timer.snapshot()

    def stop(self, drain_s: float = 0.0) -> None:
        """Drain, stop serving, end the threads; frontends move what is still running."""
        self.engine.drain(drain_s)
        self.engine.stop()
        grpc_loop().run(self._server.stop(0.2), _TIMEOUT_S)
        self._built.nccl.stop()
        grpc_loop().loop.call_soon_threadsafe(self.hub.held.close)
