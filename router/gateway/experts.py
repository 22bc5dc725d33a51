"""Routed experts of any topology: in this process, or behind links to shards."""

from __future__ import annotations

import logging
import secrets
import weakref
from collections.abc import Callable

from galerne.clock import MonotonicClock
from galerne.errors import ConfigError
from galerne.hello import Hello
from galerne.topology import LinkTransport, Topology
from router.exchange.calls import SessionCounters
from router.exchange.exchange import ExpertExchange
from router.exchange.grpc_link import AddressBook
from router.exchange.grpc_transport import GrpcTransport
from router.exchange.links import OnLinkChange
from router.exchange.local import LocalExperts
from router.exchange.nccl_transport import NcclTransport
from router.exchange.session import ExchangeSession
from router.exchange.shm_transport import ShmTransport
from router.exchange.transport import Transport
from router.gateway.settings import GatewaySettings
from router.model.device_experts import DeviceExperts
from router.model.experts_port import RoutedExperts
from shards.adapters.adapter import Adapter
from shards.bank import ExpertBank
from shards.checkpoint.weights import Checkpoint
from shards.device_room import DeviceRoom
from shards.kernels.kinds import Kernels, kernels_on, torch_device
from shards.nccl.availability import NcclUnavailableError
from shards.nccl.process import NcclProcess

logger = logging.getLogger(__name__)

# A ring takes frames of up to half its size: the largest, and the indices that go with its rows.
_RING_SPARE_BYTES = 1 << 18
_MAX_RING_BYTES = 32 << 20


class ExpertSources:
    """Makes what a topology needs, for one gateway."""

    def __init__(
        self,
        settings: GatewaySettings,
        checkpoint: Checkpoint,
        book: AddressBook | None,
        on_link_change: OnLinkChange,
        nccl: NcclProcess | None = None,
    ) -> None:
        """``book`` is needed for links to shards only; ``nccl`` unset: that of our GPU."""
        self.nccl = nccl or NcclProcess(trusts_network=settings.trusts_network)
        self._settings = settings
        self._checkpoint = checkpoint
        self._book = book
        self._on_link_change = on_link_change
        self._incarnation = secrets.randbits(64)
        self._counters = SessionCounters()  # of all that are made here
        self._adapters: dict[int, Adapter] = {}  # by key
        self._banks: weakref.WeakSet[ExpertBank] = weakref.WeakSet()  # of this process
        self.room = DeviceRoom(settings.device_room)

    def adapter_bytes(self, adapter: Adapter) -> float:
        """What an adapter would take beside the experts of this process, were it on a GPU."""
        return sum(bank.adapter_bytes(adapter) for bank in list(self._banks))

    def add_adapter(self, adapter: Adapter) -> None:
        """Have an adapter with all experts of this process, those to come too.

        Raises:
            DeviceFullError: It does not fit.
        """
        self._adapters[adapter.key] = adapter
        for bank in list(self._banks):
            bank.add_adapter(adapter)

    def drop_adapter(self, key: int) -> None:
        """Forget an adapter, if it is here; nobody computes meanwhile."""
        self._adapters.pop(key, None)
        for bank in list(self._banks):
            bank.drop_adapter(key)

    def experts_of(
        self, topology: Topology, on_progress: Callable[[int, int], None] = lambda n, of: None
    ) -> RoutedExperts:
        """Load them, or begin to connect.

        Raises:
            CheckpointError: The checkpoint cannot be used.
            ConfigError: There is nobody to ask where shards listen, or NCCL cannot be used here.
            DeviceFullError: They do not fit on the GPU.
        """
        if topology.transport is LinkTransport.LOCAL:
            return self._local(topology, on_progress)
        if self._book is None:
            raise ConfigError("transport", topology.transport.value, "needs an address book")
        transport = self._transport(topology, self._book)
        session = ExchangeSession(
            topology, self._settings.exchange, self._on_link_change, self._counters
        )
        experts = ExpertExchange(session, transport, MonotonicClock())
        takes_any = topology.transport is LinkTransport.NCCL  # rows where they are
        if takes_any or kernels_on(self._settings.device) is Kernels.HOST:
            return experts
        return DeviceExperts(experts, torch_device(self._settings.device))

    def _local(self, topology: Topology, on_progress: Callable[[int, int], None]) -> LocalExperts:
        """Every expert in this process, whatever shards the topology names.

        Those that are here already serve the next topology too: there may be no room for two.
        """
        for known in list(self._banks):
            return LocalExperts(known, topology.shards, self._counters)
        config, settings = self._checkpoint.config, self._settings
        bank = ExpertBank(
            self._checkpoint,
            {layer: range(config.num_experts) for layer in range(config.num_layers)},
            settings.dtype,
            on_progress,
            settings.num_threads,
            settings.experts,
            settings.device,
            self.room,
        )
        bank.prefault()
        for adapter in list(self._adapters.values()):
            bank.add_adapter(adapter)
        self._banks.add(bank)
        return LocalExperts(bank, topology.shards, self._counters)

    def _transport(self, topology: Topology, book: AddressBook) -> Transport:
        settings = self._settings
        hello = Hello(
            gateway=settings.gateway_id,
            incarnation=self._incarnation,
            fingerprint=self._checkpoint.fingerprint,
            numerics_profile=settings.link_profile,
            epoch=topology.epoch,
        )
        links = (topology.shards, hello, settings.cluster_token, book)
        if topology.transport is LinkTransport.NCCL:
            try:
                return NcclTransport(*links, self.nccl, tls=settings.tls)
            except NcclUnavailableError as error:
                raise ConfigError("transport", topology.transport.value, str(error)) from error
        if topology.transport is LinkTransport.SHM:
            row_bytes = self._checkpoint.config.hidden_size * settings.dtype.itemsize
            largest = topology.row_budget * row_bytes
            try:
                ring_bytes = min(2 * (largest + _RING_SPARE_BYTES), _MAX_RING_BYTES)
                return ShmTransport(*links, ring_bytes, tls=settings.tls)
            except OSError as error:
                logger.warning("shared_memory_not_used reason=%s", error)
        return GrpcTransport(*links, tls=settings.tls)
