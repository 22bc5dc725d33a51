"""Calls of the controller to shards and gateways, on their internal ports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import grpc
import numpy as np
from google.protobuf.message import Message

from cluster.control.ports import GatewayState, ShardLoad
from galerne.adapters import AdapterInfo
from galerne.errors import ConfigError, GalerneError
from galerne.hello import SERVICE_OPTIONS, TOKEN_METADATA_KEY
from galerne.ids import Epoch
from galerne.internal_tls import InternalTls, open_channel, version_of
from galerne.topology import Topology
from galerne.topology_codec import decode_topology, encode_topology
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import internal_pb2 as internal
from galerne.v1 import internal_pb2_grpc
from shards.residency import as_message

_ANSWER_S = 5.0  # beyond the time that a part was given
_LONGEST_CALL_S = 600.0


class PartFailedError(GalerneError):
    """A shard or gateway did not do what the controller asked."""

    def __init__(self, part: str, what: str, reason: str) -> None:
        super().__init__(part, what, reason)
        self.part, self.what, self.reason = part, what, reason

    def __str__(self) -> str:
        return f"{self.part}: {self.what}: {self.reason}"


class PartClients:
    """Implements ``PartCalls`` with one channel per part and address."""

    _shard = internal_pb2_grpc.ExpertServiceStub
    _gateway = internal_pb2_grpc.GatewayServiceStub

    def __init__(
        self,
        cluster_token: str,
        address_of: Callable[[str], str | None],
        tls: InternalTls | None = None,
    ) -> None:
        self._metadata = ((TOKEN_METADATA_KEY, cluster_token),)
        self._address_of = address_of
        self._tls = tls
        self._channels: dict[str, _Known] = {}
        self._closing: set[asyncio.Task[None]] = set()  # of channels where calls may still run

    async def adopt(self, shard: str, experts: Iterable[tuple[int, int]], timeout_s: float) -> None:
        """See ``PartCalls``."""
        request = internal.AdoptRequest(experts=as_message(experts))
        await self._call(self._shard, shard, "Adopt", request, timeout_s)

    async def prepare_epoch(
        self, shard: str, epoch: Epoch, experts: Iterable[tuple[int, int]], timeout_s: float
    ) -> None:
        """See ``PartCalls``."""
        request = internal.PrepareEpochRequest(epoch=epoch, experts=as_message(experts))
        await self._call(self._shard, shard, "PrepareEpoch", request, timeout_s)

    async def retire_epochs(self, shard: str, keep: Collection[Epoch], timeout_s: float) -> None:
        """See ``PartCalls``."""
        request = internal.RetireEpochsRequest(keep=keep)
        await self._call(self._shard, shard, "RetireEpochs", request, timeout_s)

    async def prepare_topology(self, gateway: str, topology: Topology, timeout_s: float) -> None:
        """See ``PartCalls``."""
        message = encode_topology(topology)
        request = internal.PrepareTopologyRequest(topology=message, timeout_s=timeout_s)
        await self._call(self._gateway, gateway, "PrepareTopology", request, timeout_s + _ANSWER_S)

    async def shadow(self, gateway: str, epoch: Epoch, timeout_s: float) -> int:
        """See ``PartCalls``."""
        request = internal.EpochRequest(epoch=epoch)
        report = await self._call(self._gateway, gateway, "ShadowTopology", request, timeout_s)
        return int(report.rows_compared)

    async def commit(self, gateway: str, epoch: Epoch, timeout_s: float) -> None:
        """See ``PartCalls``."""
        request = internal.EpochRequest(epoch=epoch)
        await self._call(self._gateway, gateway, "CommitTopology", request, timeout_s)

    async def abort(self, gateway: str, epoch: Epoch, timeout_s: float) -> None:
        """See ``PartCalls``."""
        request = internal.EpochRequest(epoch=epoch)
        await self._call(self._gateway, gateway, "AbortTopology", request, timeout_s)

    async def load_adapter(self, part: str, wanted: AdapterInfo, timeout_s: float) -> AdapterInfo:
        """See ``PartCalls``."""
        request = internal.LoadAdapterRequest(adapter=pb.AdapterInfo(**asdict(wanted)))
        told = await self._call(self._stub_of(part), part, "LoadAdapter", request, timeout_s)
        return replace(wanted, id=told.id, rank=told.rank, num_bytes=told.num_bytes)

    async def unload_adapter(
        self, part: str, adapter_id: str, deadline_s: float, timeout_s: float
    ) -> None:
        """See ``PartCalls``."""
        request = internal.UnloadAdapterRequest(id=adapter_id, deadline_s=deadline_s)
        await self._call(self._stub_of(part), part, "UnloadAdapter", request, timeout_s)

    def _stub_of(self, part: str) -> type:
        return self._gateway if part.startswith("gateway-") else self._shard

    async def load_of(self, shard: str, timeout_s: float) -> ShardLoad:
        """See ``PartCalls``."""
        request = internal.DescribeShardRequest(with_load=True)
        told = await self._call(self._shard, shard, "DescribeShard", request, timeout_s)
        return ShardLoad(np.array(told.expert_rows, np.int64), told.compute_seconds)

    async def state_of(self, gateway: str, timeout_s: float) -> GatewayState:
        """See ``PartCalls``."""
        request = internal.DescribeGatewayRequest(with_topology=True)
        told = await self._call(self._gateway, gateway, "DescribeGateway", request, timeout_s)
        num_requests = told.load.running + told.load.waiting
        return GatewayState(decode_topology(told.topology), num_requests, told.unready_reason)

    async def close(self) -> None:
        """Close the channels."""
        for closing in self._closing:
            closing.cancel()
        for known in self._channels.values():
            await known.channel.close()

    async def _call(
        self, stub: type, part: str, method: str, request: Message, timeout_s: float
    ) -> Any:  # noqa: ANN401 - generated stubs are untyped
        call = getattr(stub(self._channel(part, method)), method)
        try:
            return await call(request, metadata=self._metadata, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            reason = f"{error.code().name}: {error.details()}"
            raise PartFailedError(part, method, reason) from error

    def _channel(self, part: str, method: str) -> grpc.aio.Channel:
        address = self._address_of(part)
        if address is None:
            raise PartFailedError(part, method, "its address is not known")
        known, version = self._channels.get(part), version_of(self._tls)
        if known is None or known.address != address or version not in (None, known.version):
            try:
                channel = open_channel(address, SERVICE_OPTIONS, self._tls)
            except ConfigError as error:  # its files are just being replaced
                raise PartFailedError(part, method, str(error)) from error
            if known is not None:
                self._close_later(known.channel)
            self._close_gone()
            self._channels[part] = known = _Known(address, version, channel)
        return known.channel

    def _close_gone(self) -> None:
        """Of parts that have ended, whose names never come again, or are silent."""
        for part in [part for part in self._channels if self._address_of(part) is None]:
            self._close_later(self._channels.pop(part).channel)

    def _close_later(self, channel: grpc.aio.Channel) -> None:
        """When no call runs there any more."""
        task = asyncio.ensure_future(channel.close(_LONGEST_CALL_S))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _Known(NamedTuple):
    address: str
    version: bytes | None  # of the certificates that it was opened with
    channel: grpc.aio.Channel
