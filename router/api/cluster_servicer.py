"""``ClusterService`` over any controller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import asdict

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from galerne.errors import NotServingError
from galerne.v1 import cluster_pb2 as pb
from galerne.v1 import cluster_pb2_grpc
from galerne.v1 import inference_pb2 as inference
from router.api.cluster_messages import message_of, question_of, wish_of
from router.api.cluster_port import UNLOAD_DEADLINE_S, ClusterPort, check_deadline
from router.api.drain import drain
from router.api.frontend import Frontend
from router.api.grpc_servicer import Aborting, Context
from router.api.log_level import set_log_level

_POLL_S = 0.5


class ClusterServicer(cluster_pb2_grpc.ClusterServiceServicer):
    """Shows and changes the topology, and tells what the autoscaler makes of it."""

    def __init__(self, cluster: ClusterPort, frontend: Frontend) -> None:
        self._cluster = cluster
        self._frontend = frontend

    async def GetTopology(  # noqa: N802
        self, request: pb.GetTopologyRequest, context: Context
    ) -> pb.TopologyInfo:
        """What serves, and how far a change has come."""
        del request
        async with Aborting(context):
            topology: pb.TopologyInfo = message_of(await self._cluster.topology())
            return topology

    async def SetTopology(  # noqa: N802
        self, request: pb.SetTopologyRequest, context: Context
    ) -> pb.TopologyInfo:
        """Begins a change."""
        async with Aborting(context):
            self._frontend.access.note_action("SetTopology", asked=_plain(request))
            topology: pb.TopologyInfo = message_of(
                await self._cluster.set_topology(wish_of(request))
            )
            return topology

    async def Explain(  # noqa: N802
        self, request: pb.ExplainRequest, context: Context
    ) -> pb.ScalerInfo:
        """The autoscaler, and one of its decisions."""
        async with Aborting(context):
            number = request.number if request.HasField("number") else None
            info: pb.ScalerInfo = message_of(await self._cluster.explain(number))
            return info

    async def ListDecisions(  # noqa: N802
        self, request: pb.ListDecisionsRequest, context: Context
    ) -> pb.DecisionList:
        """Decisions since a number."""
        async with Aborting(context):
            found = await self._cluster.decisions(request.after)
            return pb.DecisionList(decisions=map(message_of, found))

    async def WhatIf(  # noqa: N802
        self, request: pb.WhatIfRequest, context: Context
    ) -> pb.WhatIfAnswer:
        """The planner's choice for a load."""
        async with Aborting(context):
            answer: pb.WhatIfAnswer = message_of(await self._cluster.what_if(question_of(request)))
            return answer

    async def LoadAdapter(  # noqa: N802
        self, request: pb.LoadLoraRequest, context: Context
    ) -> inference.AdapterInfo:
        """Loads a LoRA adapter everywhere."""
        async with Aborting(context):
            self._frontend.access.note_action("LoadAdapter", asked=_plain(request))
            info = await self._cluster.load_adapter(request.name, request.directory)
            await self._frontend.gateway.refresh()
            return inference.AdapterInfo(**asdict(info))

    async def UnloadAdapter(  # noqa: N802
        self, request: pb.UnloadLoraRequest, context: Context
    ) -> inference.AdapterInfo:
        """Unloads one when nobody uses it."""
        deadline_s = request.deadline_s if request.HasField("deadline_s") else UNLOAD_DEADLINE_S
        async with Aborting(context):
            check_deadline(deadline_s)
            self._frontend.access.note_action("UnloadAdapter", asked=_plain(request))
            info = await self._cluster.unload_adapter(request.name, deadline_s)
            await self._frontend.gateway.refresh()
            return inference.AdapterInfo(**asdict(info))

    async def ListAdapters(  # noqa: N802
        self, request: pb.ListAdaptersRequest, context: Context
    ) -> pb.AdapterList:
        """Adapters that are loaded."""
        del request
        async with Aborting(context):
            found = await self._cluster.adapters()
            return pb.AdapterList(adapters=[inference.AdapterInfo(**asdict(i)) for i in found])

    async def SetLogLevel(  # noqa: N802
        self, request: pb.SetLogLevelRequest, context: Context
    ) -> pb.LogLevelSet:
        """Changes what processes log."""
        async with Aborting(context):
            parts = await set_log_level(self._cluster, self._frontend, request.level, request.part)
            return pb.LogLevelSet(parts=parts)

    async def WatchEvents(  # noqa: N802
        self, request: pb.WatchEventsRequest, context: Context
    ) -> AsyncGenerator[pb.ClusterEvent, None]:
        """Events as they come."""
        async with Aborting(context):
            async for event in self.stream_events(request):
                yield event

    async def stream_events(
        self, request: pb.WatchEventsRequest, is_over: Callable[[], bool] = lambda: False
    ) -> AsyncGenerator[pb.ClusterEvent, None]:
        """The same, for a transport with a context of its own, until ``is_over``.

        Raises:
            NotServingError: It is over.
        """
        after = request.after
        if not request.HasField("after"):
            known = await self._cluster.events(0)
            after = known[-1].number if known else 0
        while not is_over():
            for event in await self._cluster.events(after):
                after = event.number
                yield message_of(event)
            await asyncio.sleep(_POLL_S)
        raise NotServingError("the frontend ends; another one tells on")

    async def Drain(  # noqa: N802
        self, request: pb.DrainRequest, context: Context
    ) -> AsyncGenerator[pb.DrainProgress, None]:
        """Takes no requests from now on."""
        async with Aborting(context):
            async for progress in self.stream_drain(request):
                yield progress

    async def stream_drain(
        self, request: pb.DrainRequest
    ) -> AsyncGenerator[pb.DrainProgress, None]:
        """The same, for a transport with a context of its own."""
        self._frontend.access.note_action("Drain", asked=_plain(request))
        async with aclosing(drain(self._frontend, self._cluster, request)) as progress:
            async for message in progress:
                yield message


def _plain(request: Message) -> dict[str, object]:
    fields: dict[str, object] = MessageToDict(request, preserving_proto_field_name=True)
    return fields
