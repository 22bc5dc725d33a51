"""Loads adapters into a running gateway, and takes them out when nobody uses them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from galerne.adapters import AdapterInfo
from galerne.errors import CheckpointError, GalerneError
from router.engine.engine import Engine
from router.engine.scheduler import Scheduler
from router.gateway.experts import ExpertSources
from router.model.decoder import Decoder
from router.model.step_runner import StepRunner
from shards.adapters.adapter import Adapter, key_of
from shards.adapters.directory import find_adapter
from shards.adapters.sizes import adapter_tensors, ranks_of
from shards.device_room import DeviceFullError
from shards.kernels.device_sizes import allocated_bytes

logger = logging.getLogger(__name__)

_POLL_S = 0.05
_ENGINE_TIMEOUT_S = 120.0  # a step may wait for experts that are away


class AdapterInUseError(GalerneError):
    """Requests still use an adapter that is to be unloaded."""

    status = "FAILED_PRECONDITION"

    def __init__(self, adapter_id: str, num_requests: int, waited_s: float) -> None:
        super().__init__(adapter_id, num_requests, waited_s)
        self.adapter_id, self.num_requests, self.waited_s = adapter_id, num_requests, waited_s

    def __str__(self) -> str:
        return (
            f"{self.num_requests} requests still use adapter {self.adapter_id} "
            f"after {self.waited_s:g} s"
        )


class GatewayAdapters:
    """Called by one thread at a time, not the engine's."""

    def __init__(
        self,
        root: Path | None,
        engine: Engine,
        scheduler: Scheduler,
        step_runner: StepRunner,
        decoder: Decoder,
        sources: ExpertSources,
        number_bytes: int,
    ) -> None:
        """``number_bytes``: of the model's dtype."""
        self._root = root
        self._engine = engine
        self._scheduler = scheduler
        self._step_runner = step_runner
        self._decoder = decoder
        self._sources = sources
        self._dense_bytes: dict[int, float] = {}  # on a GPU, by key
        self._number_bytes = number_bytes
        sources.room.add_holder(self)

    def device_bytes(self) -> float:
        """See ``Holder``: what loaded ones change of dense weights."""
        return sum(self._dense_bytes.values())

    @property
    def ids(self) -> frozenset[str]:
        """Of the adapters that are here. From any thread."""
        return frozenset(adapter.id for adapter in list(self._decoder.adapters.values()))

    def load(self, wanted: AdapterInfo) -> Adapter:
        """Serve requests of an adapter from now on. May be repeated. Steps go on meanwhile.

        Raises:
            GalerneError: See ``find_adapter``.
            DeviceFullError: It does not fit on the GPU.
        """
        adapter = find_adapter(self._root, wanted, self._decoder.config)
        if adapter.key not in self._decoder.adapters:
            if self._sources.room.free_bytes is not None:
                self._take_room(adapter, wanted.name)
            self._sources.add_adapter(adapter)
            self._decoder.add_adapter(adapter)
            logger.info("adapter_loaded name=%s id=%s", wanted.name, adapter.id)
        return adapter

    def _take_room(self, adapter: Adapter, name: str) -> None:
        own = adapter_tensors(ranks_of(adapter), self._decoder.config, self._number_bytes)
        dense = allocated_bytes(own.dense)
        needed = dense + self._sources.adapter_bytes(adapter)
        self._sources.room.check(f"adapter {name}", needed)
        self._dense_bytes[adapter.key] = dense

    def load_known(self, wanted: Sequence[AdapterInfo]) -> None:
        """At the start; one without files or room is left out, so that the others are served."""
        for known in wanted:
            try:
                self.load(known)
            except (CheckpointError, DeviceFullError) as error:
                logger.error("adapter_not_loaded name=%s reason=%s", known.name, error)  # noqa: TRY400

    def unload(self, adapter_id: str, deadline_s: float) -> None:
        """Take no new request of an adapter, wait for those that run, and forget it.

        Raises:
            AdapterInUseError: Some still run at the deadline; then it stays.
        """
        leaving = self._step_runner.leaving
        self._between_steps(lambda: leaving.add(adapter_id))
        try:
            self._wait_unused(adapter_id, deadline_s)
            self._between_steps(lambda: self._drop(adapter_id))
        finally:
            self._between_steps(lambda: leaving.discard(adapter_id))

    def _wait_unused(self, adapter_id: str, deadline_s: float) -> None:
        started_s = time.monotonic()
        while num := self._between_steps(lambda: self._num_using(adapter_id)):
            if time.monotonic() - started_s > deadline_s:
                raise AdapterInUseError(adapter_id, num, deadline_s)
            time.sleep(_POLL_S)

    def _num_using(self, adapter_id: str) -> int:
        return sum(request.adapter == adapter_id for request in self._scheduler.requests)

    def _drop(self, adapter_id: str) -> int:
        self._decoder.drop_adapter(key_of(adapter_id))
        self._sources.drop_adapter(key_of(adapter_id))
        self._dense_bytes.pop(key_of(adapter_id), None)
        logger.info("adapter_unloaded id=%s", adapter_id)
        return 0

    def _between_steps(self, what: Callable[[], int | None]) -> int:
        return self._engine.between_steps(what).result(_ENGINE_TIMEOUT_S) or 0
