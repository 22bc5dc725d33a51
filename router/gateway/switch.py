"""Changes the topology of a running gateway: prepare, shadow, commit; until then all may be undone.

Every topology has experts of its own (links of its epoch, or a bank in this process), made beside
those that serve. The commit swaps one pointer between two steps. KV never moves.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from galerne.errors import GalerneError, NotServingError
from galerne.ids import Epoch
from galerne.topology import LinkTransport, Topology
from router.engine.engine import Engine
from router.engine.scheduler_config import SchedulerConfig
from router.exchange.dispatch import Ints
from router.exchange.links import LinkState
from router.gateway.experts import ExpertSources
from router.gateway.settings import GatewaySettings
from router.gateway.sizes import BLOCK_SIZE
from router.model.decoder import Decoder
from router.model.experts_port import RoutedExperts
from router.model.runner import PagedRunner
from shards.kernels.native.library import set_spin

logger = logging.getLogger(__name__)

ENGINE_TIMEOUT_S = 30.0  # for the engine to come between two steps
STEP_PATIENCE_S = 2.0  # of a commit, with a step that may wait for shards that have left
PROBE_PATIENCE_S = 2.0  # for one layer of the shadow: all steps wait meanwhile
_POLL_S = 0.01


class ShadowMismatchError(GalerneError):
    """The new placement computes other bits."""

    status = "FAILED_PRECONDITION"

    def __init__(self, epoch: int, layer: int, expert: int) -> None:
        super().__init__(epoch, layer, expert)
        self.epoch, self.layer, self.expert = epoch, layer, expert

    def __str__(self) -> str:
        return f"epoch {self.epoch}: expert {self.expert} of layer {self.layer} gives other bits"


class NotPreparedError(GalerneError):
    """A commit or shadow of a topology that was not prepared."""

    status = "FAILED_PRECONDITION"

    def __init__(self, epoch: int, serving: int) -> None:
        super().__init__(epoch, serving)
        self.epoch, self.serving = epoch, serving

    def __str__(self) -> str:
        return f"epoch {self.epoch} is not prepared; {self.serving} serves"


@dataclass(frozen=True, slots=True)
class _Prepared:
    topology: Topology
    experts: RoutedExperts


class TopologySwitch:
    """Called by one thread at a time, not the engine's."""

    def __init__(
        self,
        settings: GatewaySettings,
        sources: ExpertSources,
        engine: Engine,
        runner: PagedRunner,
        decoder: Decoder,
    ) -> None:
        self.topology = settings.topology
        self._settings = settings
        self._sources = sources
        self._engine = engine
        self._runner = runner
        self._decoder = decoder
        self._prepared: _Prepared | None = None
        self._lock = threading.Lock()  # of the one above, and its experts' end
        self._unwanted: Epoch | None = None  # the last one that was given up
        self._replaced: list[RoutedExperts] = []

    def prepare(self, topology: Topology, timeout_s: float) -> None:
        """Have the experts of a topology ready beside those that serve.

        Raises:
            NotServingError: Not all links came up in time; names the shards.
            CheckpointError: Experts cannot be read.
        """
        if topology == self.topology:
            return
        if topology.epoch < self.topology.epoch:
            raise NotPreparedError(topology.epoch, self.topology.epoch)
        self._unwanted = None
        if self._prepared is not None:
            self.abort(self._prepared.topology.epoch)
        deadline = time.monotonic() + timeout_s
        experts = self._sources.experts_of(topology)
        while missing := _not_up(experts):
            if time.monotonic() > deadline or self._unwanted == topology.epoch:
                experts.close()
                raise NotServingError(f"no link to {', '.join(missing)} in {timeout_s:g} s")
            time.sleep(_POLL_S)
            experts.poll()
        with self._lock:
            self._prepared = _Prepared(topology, experts)
        if self._unwanted == topology.epoch:
            self.abort(topology.epoch)

    def unwant(self, epoch: Epoch) -> None:
        """End a preparation that may be going on. From any thread; ``abort`` follows."""
        self._unwanted = epoch

    def shadow(self, epoch: Epoch) -> int:
        """Let every expert compute the same rows on both placements, a layer between two steps.

        Returns:
            Rows compared.

        Raises:
            NotPreparedError: This epoch was not prepared.
            ShadowMismatchError: A bit differs.
            GalerneError: Experts did not answer.
        """
        prepared = self._take(epoch)
        config = self._decoder.config
        num_rows = 0
        for layer in range(config.num_layers):
            x, ids = probe_rows(
                layer, config.hidden_size, config.num_experts, config.num_experts_per_tok
            )
            compare = partial(self._compare, prepared, layer, x.to(self._settings.dtype), ids)
            self._engine.between_steps(compare).result(ENGINE_TIMEOUT_S)
            num_rows += ids.size
        return num_rows

    @torch.inference_mode()
    def _compare(self, prepared: _Prepared, layer: int, x: torch.Tensor, ids: Ints) -> None:
        if self._prepared is not prepared:  # given up while we waited for our turn
            raise NotPreparedError(prepared.topology.epoch, self.topology.epoch)
        old, new = self._runner.exchange, prepared.experts
        new.poll()
        waiting = old.begin(layer, 0, x, ids), new.begin(layer, 0, x, ids)
        try:
            rows = [
                pending.wait(PROBE_PATIENCE_S).view(ids.size, -1).cpu().clone()
                for pending in waiting
            ]
        except BaseException:
            old.abandon()
            new.abandon()
            raise
        differs = (rows[0] != rows[1]).any(dim=1)
        if differs.any():
            expert = int(ids.reshape(-1)[int(differs.nonzero()[0])])
            raise ShadowMismatchError(prepared.topology.epoch, layer, expert)

    def commit(self, epoch: Epoch, has_left: threading.Event | None = None) -> None:
        """Serve a prepared topology from the next step on. May be repeated.

        ``has_left`` is set when the caller no longer waits: from then on nothing happens, for the
        caller's successor may have decided otherwise.

        Raises:
            NotPreparedError: This epoch was not prepared.
            TimeoutError: The engine is stuck in a step.
        """
        has_left = has_left or threading.Event()
        if epoch != self.topology.epoch:
            self._commit(self._take(epoch), has_left)
        while self._replaced:  # by this call, or by an earlier one that did not wait for it
            self._replaced.pop().close()
        logger.info("topology_committed epoch=%d mode=%s", epoch, self.topology.mode.value)

    def _commit(self, prepared: _Prepared, has_left: threading.Event) -> None:
        serving = self._runner.exchange
        swapped = self._engine.between_steps(
            lambda: None if has_left.is_set() else self._swap(prepared)
        )
        try:
            if not wait([swapped], STEP_PATIENCE_S).done:
                serving.interrupt()  # the step is done again in the new topology
            swapped.result(ENGINE_TIMEOUT_S)
        except TimeoutError:
            has_left.set()
            raise

    def _swap(self, prepared: _Prepared) -> None:
        """On the engine's thread."""
        with self._lock:
            if self._prepared is not prepared:
                return  # done by an earlier call, or undone
            self._prepared = None
        topology = prepared.topology
        self._replaced.append(self._runner.exchange)
        self._runner.exchange = prepared.experts
        self._runner.num_micro_batches = topology.num_micro_batches
        self._decoder.experts_moved(threads_beside(self._settings, topology))
        set_spin(owns_cores=topology.transport is LinkTransport.LOCAL)
        self._engine.reconfigure(topology.epoch, scheduler_limits(self._settings, topology))
        self.topology = topology
        prepared.experts.counters.keep(topology.shards)

    def abort(self, epoch: Epoch) -> None:
        """Give up what was prepared for an epoch; nothing else changes. May be repeated."""
        with self._lock:
            prepared = self._prepared
            if prepared is None or prepared.topology.epoch != epoch:
                return
            self._prepared = None
        prepared.experts.close()

    def _take(self, epoch: Epoch) -> _Prepared:
        if self._prepared is None or self._prepared.topology.epoch != epoch:
            raise NotPreparedError(epoch, self.topology.epoch)
        return self._prepared


def probe_rows(
    layer: int, hidden_size: int, num_experts: int, top_k: int
) -> tuple[torch.Tensor, Ints]:
    """Tokens ``[T, H]`` float32 and experts ``[T, K]`` that touch every expert of a layer."""
    num_tokens = -(-num_experts // top_k)
    noise = np.random.default_rng(layer).standard_normal((num_tokens, hidden_size))
    first = np.minimum(np.arange(num_tokens) * top_k, num_experts - top_k)
    ids = first[:, None] + np.arange(top_k)
    return torch.from_numpy(noise.astype(np.float32)), ids


def scheduler_limits(settings: GatewaySettings, topology: Topology) -> SchedulerConfig:
    """Limits of the scheduler in a topology."""
    return SchedulerConfig(
        max_num_seqs=topology.max_num_seqs,
        max_batched_tokens=topology.max_batched_tokens,
        max_chunk_tokens=min(settings.max_chunk_tokens, topology.max_batched_tokens),
        block_size=BLOCK_SIZE,
        max_waiting=settings.max_waiting,
        max_model_len=settings.max_model_len,
    )


def threads_beside(settings: GatewaySettings, topology: Topology) -> int:
    """Threads of what runs while the experts are away: fewer where these share our cores."""
    if topology.transport is LinkTransport.LOCAL or settings.num_beside is None:
        return settings.num_threads
    return settings.num_beside


def _not_up(experts: RoutedExperts) -> list[str]:
    return [shard for shard, state in experts.links.items() if state is not LinkState.UP]
