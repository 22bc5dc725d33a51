"""Starts and ends the shards of a measurement, and reads their counters."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from cluster.doctor.setup import Subject, topology_of
from galerne.errors import GalerneError
from galerne.ids import ShardId
from galerne.topology import LinkTransport

_START_S = 120.0  # to load its experts
_ANSWER_S = 30.0
_END_S = 10.0
_POLL_S = 0.005


class ShardProcessError(GalerneError):
    """A shard of a measurement did not start, or ended."""

    def __init__(self, shard: str, problem: str) -> None:
        super().__init__(shard, problem)
        self.shard = shard
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.shard}: {self.problem}"


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


class _ShardProcess:
    def __init__(self, shard: ShardId, settings: dict[str, Any]) -> None:
        self._shard = shard
        # As launch.py sets the pools of an actor; the modules are found where ours were.
        env = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cluster.doctor.shard_process"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._write(json.dumps(settings))

    def address(self) -> str:
        return str(self._read(_START_S)["address"])

    def counters(self) -> Counters:
        self._write("")
        told = self._read(_ANSWER_S)
        return Counters(told["compute_seconds"], told["cpu_seconds"])

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ShardProcessError(self._shard, "ended") from None

    def _read(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        if not ready:
            raise ShardProcessError(self._shard, f"said nothing for {timeout_s:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise ShardProcessError(self._shard, "ended")
        told: dict[str, Any] = json.loads(line)
        return told


class ShardProcesses:
    """Shards that serve topologies of several sizes; also their address book.

    Each holds what it would hold in any of these, so that no measurement waits for a start.
    """

    def __init__(self, subject: Subject, counts: Iterable[int]) -> None:
        """Start the most that one of the topologies needs, and wait until they listen.

        Raises:
            ShardProcessError: One does not start.
        """
        self.counts = tuple(sorted(counts))
        self._names = topology_of(subject.model, LinkTransport.SHM, self.counts[-1]).shards
        self._by_shard: dict[ShardId, _ShardProcess] = {}
        self._addresses: dict[ShardId, str] = {}
        held = experts_held(subject, self.counts)
        try:
            for number, shard in enumerate(self._names):
                settings = {
                    "shard": shard,
                    "checkpoint": str(subject.path.resolve()),
                    "experts": subject.experts.label,
                    "dense": subject.dense.label,
                    "experts_by_layer": held[shard],
                    "cluster_token": subject.cluster_token,
                    "core": number,
                }
                self._by_shard[shard] = _ShardProcess(shard, settings)
            for shard, process in self._by_shard.items():
                self._addresses[shard] = process.address()
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
