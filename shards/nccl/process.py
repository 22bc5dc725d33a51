"""NCCL of this process, from the first link on that may use it: nothing is loaded before."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from galerne.hello import NcclOffer
from shards.nccl.availability import (
    NcclUnavailableError,
    host_name,
    max_links,
    refusal,
)
from shards.nccl.cupy_port import open_port
from shards.nccl.port import NcclPort
from shards.nccl.runtime import NcclConfig, NcclRuntime

logger = logging.getLogger(__name__)

OpenPort = Callable[[], NcclPort]


class NcclProcess:
    """Shared by all links of a gateway or of a shard."""

    def __init__(
        self,
        *,
        trusts_network: bool = False,
        open_port: OpenPort | None = None,
        config: NcclConfig | None = None,
        host: str | None = None,
    ) -> None:
        """Unset: cupy on this process' GPU, on this host."""
        self.trusts_network = trusts_network
        self.host = host_name() if host is None else host
        self._open_port = open_port or self._open_cupy
        self._config = config or NcclConfig()
        self._lock = threading.Lock()
        self._runtime: NcclRuntime | None = None

    def _open_cupy(self) -> NcclPort:
        return open_port(trusts_network=self.trusts_network)

    def runtime(self) -> NcclRuntime:
        """The threads, started at the first call. Takes seconds then: it loads CUDA.

        Raises:
            NcclUnavailableError: There is no GPU, no cupy, or too many of our threads are stuck; or
                another thread has been at it for long.
        """
        with self._alone():
            if self._runtime is None:
                self._runtime = NcclRuntime(self._open_port(), self._config)
            if not self._runtime.may_join:
                raise NcclUnavailableError(f"{self._runtime.num_leaked} threads are stuck in it")
            return self._runtime

    def runtime_for_link(self, num_offered: int = 0) -> NcclRuntime:
        """The same, if there is room for one more link.

        ``num_offered``: links that may go by it soon, and do not yet.

        Raises:
            NcclUnavailableError: There is not, or see ``runtime``.
        """
        runtime = self.runtime()
        limit = max_links(os.environ)
        if runtime.num_channels + num_offered >= limit:
            raise NcclUnavailableError(f"{limit} links use it, and there is room for no more")
        return runtime

    def offer(self) -> NcclOffer:
        """A communicator for one link, which we join as rank 0.

        Raises:
            NcclUnavailableError: See ``runtime_for_link``.
            NcclFaultError: NCCL failed.
        """
        unique_id = self.runtime_for_link().port.unique_id()
        return NcclOffer(id=unique_id.hex(), host=self.host, trusts_network=self.trusts_network)

    def accept(self, offer: NcclOffer) -> NcclRuntime:
        """Who joins as rank 1.

        Raises:
            NcclUnavailableError: See ``runtime_for_link``; or the network between is not trusted.
        """
        problem = refusal(offer, host=self.host, trusts_network=self.trusts_network)
        if problem:
            raise NcclUnavailableError(problem)
        return self.runtime_for_link(self.runtime().num_joining)

    @property
    def num_links(self) -> int:
        """Links that go from GPU to GPU."""
        return 0 if self._runtime is None else self._runtime.num_channels

    @property
    def num_leaked(self) -> int:
        """Threads that have not come back from NCCL in time."""
        return 0 if self._runtime is None else self._runtime.num_leaked

    @property
    def is_healthy(self) -> bool:
        """Whether the process may go on; see ``NcclRuntime``."""
        return self._runtime is None or self._runtime.is_healthy

    def stop(self) -> None:
        """End the threads, if there are any."""
        with suppress(NcclUnavailableError), self._alone():
            if self._runtime is not None:
                self._runtime.stop()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        timeout_s = self._config.start_timeout_s
        if not self._lock.acquire(timeout=timeout_s):
            raise NcclUnavailableError(f"it has not started in {timeout_s:g} s")
        try:
            yield
        finally:
            self._lock.release()
