"""Starts and ends the shards of a measurement, and reads their counters."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cluster.doctor.gpu import visible_to_shard
from cluster.doctor.line_process import LineProcess
from cluster.doctor.setup import Subject, topology_of
from galerne.ids import ShardId
from galerne.topology import LinkTransport
from shards.kernels.kinds import CUDA

_MODULE = "cluster.doctor.shard_process"
_POLL_S = 0.005


class Counters(NamedTuple):
    """Totals of one shard."""

    compute_s: float  # wall time inside passes
    cpu_s: float  # of the whole process

    def since(self, before: Counters) -> Counters:
        """What was added."""
        return Counters(
            self.compute_s - before.compute_s,
            self.cpu_s - before.cpu_s,
        )


class _ShardProcess(LineProcess):
    def counters(self) -> Counters:
        told = self.ask({})
        return Counters(told["compute_seconds"], told["cpu_seconds"])


class ShardProcesses:
    """Shards that serve topologies of several sizes; also their address book.

    Each holds what it would hold in any of these, so that no measurement waits for a start.
    """

    def __init__(self, subject: Subject, counts: Iterable[int]) -> None:
        """Start the most that one of the topologies needs, and wait until they listen.

        Raises:
            MeasureProcessError: One does not start.
        """
        self.counts = tuple(sorted(counts))
        self._names = topology_of(subject.model, LinkTransport.SHM, self.counts[-1]).shards
        self._by_shard: dict[ShardId, _ShardProcess] = {}
        self._addresses: dict[ShardId, str] = {}
        held = experts_held(subject, self.counts)
        is_on_gpu = subject.shard_device == CUDA
        try:
            for number, shard in enumerate(self._names):
                settings = {
                    "shard": shard,
                    "checkpoint": str(subject.path.resolve()),
                    "experts": subject.experts.label,
                    "dense": subject.dense.label,
                    "experts_by_layer": held[shard],
                    "cluster_token": subject.cluster_token,
                    "device": subject.device,
                    "shard_device": subject.shard_device,
                    "core": None if is_on_gpu else number,
                }
                shown = visible_to_shard(number, subject.num_gpus, os.environ) if is_on_gpu else {}
                self._by_shard[shard] = _ShardProcess(shard, _MODULE, settings, shown)
            for shard, process in self._by_shard.items():
                self._addresses[shard] = str(process.first_words()["address"])
        except BaseException:
            self.close()
            raise

    def address_of(self, shard: ShardId) -> str | None:
        """See ``AddressBook``."""
        return self._addresses.get(shard)

    def counters(self, count: int) -> list[Counters]:
        """Of the first ``count`` shards."""
        return [self._by_shard[shard].counters() for shard in self._names[:count]]

    def close(self) -> None:
        """End them."""
        for process in self._by_shard.values():
            process.close()


def experts_held(subject: Subject, counts: Sequence[int]) -> dict[ShardId, dict[int, list[int]]]:
    """Expert ids by layer of every shard, together over topologies of so many shards."""
    held: dict[ShardId, dict[int, set[int]]] = {}
    for count in counts:
        topology = topology_of(subject.model, LinkTransport.SHM, count)
        for shard in topology.shards:
            for layer, ids in topology.placement.experts_of(shard).items():
                held.setdefault(shard, {}).setdefault(layer, set()).update(ids)
    return {
        shard: {layer: sorted(ids) for layer, ids in layers.items()}
        for shard, layers in held.items()
    }


def wait_monotonic(until_s: float) -> bool:
    """Let a little time pass; whether ``until_s`` of ``time.monotonic`` is still to come."""
    time.sleep(_POLL_S)
    return time.monotonic() < until_s
