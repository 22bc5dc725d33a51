"""``ClusterService`` over any controller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from galerne.v1 import cluster_pb2 as pb
from galerne.v1 import cluster_pb2_grpc
from router.api.cluster_port import ClusterPort, TopologyFacts, TopologyWish
from router.api.drain import drain
from router.api.frontend import Frontend
from router.api.grpc_servicer import Aborting, Context

_POLL_S = 0.5


class ClusterServicer(cluster_pb2_grpc.ClusterServiceServicer):
    """Shows and changes the topology."""

    def __init__(self, cluster: ClusterPort, frontend: Frontend) -> None:
        self._cluster = cluster
        self._frontend = frontend

    async def GetTopology(  # noqa: N802
        self, request: pb.GetTopologyRequest, context: Context
    ) -> pb.TopologyInfo:
        """What serves, and how far a change has come."""
        del request
        async with Aborting(context):
            return _message(await self._cluster.topology())

    async def SetTopology(  # noqa: N802
        self, request: pb.SetTopologyRequest, context: Context
    ) -> pb.TopologyInfo:
        """Begins a change."""
        async with Aborting(context):
            fields: dict[str, Any] = {
                name: getattr(request, name)
                for name in TopologyWish.__slots__
                if request.HasField(name)
            }
            return _message(await self._cluster.set_topology(TopologyWish(**fields)))

    async def WatchEvents(  # noqa: N802
        self, request: pb.WatchEventsRequest, context: Context
    ) -> AsyncGenerator[pb.ClusterEvent, None]:
        """Events as they come."""
        async with Aborting(context):
            async for event in self.stream_events(request):
                yield event

    async def stream_events(
        self, request: pb.WatchEventsRequest
    ) -> AsyncGenerator[pb.ClusterEvent, None]:
        """The same, for a transport with a context of its own."""
        after = request.after
        if not request.HasField("after"):
            known = await self._cluster.events(0)
            after = known[-1].number if known else 0
        while True:
            for event in await self._cluster.events(after):
                after = event.number
                yield pb.ClusterEvent(**{name: getattr(event, name) for name in event.__slots__})
            await asyncio.sleep(_POLL_S)

    async def Drain(  # noqa: N802
        self, request: pb.DrainRequest, context: Context
    ) -> AsyncGenerator[pb.DrainProgress, None]:
        """Takes no requests from now on."""
        async with Aborting(context):
            async for progress in self.stream_drain(request):
                yield progress

    def stream_drain(self, request: pb.DrainRequest) -> AsyncGenerator[pb.DrainProgress, None]:
        """The same, for a transport with a context of its own."""
        return drain(self._frontend, request)


def _message(facts: TopologyFacts) -> pb.TopologyInfo:
    return pb.TopologyInfo(**{name: getattr(facts, name) for name in facts.__slots__})
