"""The doctor's measurement of links by NCCL, on a stand-in for the GPUs."""

import secrets
import time

import pytest

from cluster.doctor.line_process import MeasureProcessError
from cluster.doctor.measure_link import connected, measure_links
from cluster.doctor.setup import EPOCH, NUMERICS, Subject, topology_of
from cluster.doctor.shard_processes import Counters, experts_held
from cluster.doctor.small_model import write_small_model
from cluster.doctor.steps import MeasurePlan
from galerne.topology import LinkTransport
from helpers.nccl_cluster import nccl_parts
from router.gateway.settings import DTYPES, link_profile
from shards.checkpoint.presets import preset
from shards.host import ShardHost, ShardSettings
from shards.kernels.formats import WeightFormat

COUNTS = (1, 2)
PLAN = MeasurePlan(exchange_tokens=(1, 16), shard_counts=COUNTS, budget_s=4.0)
BF16 = WeightFormat.BF16


class Shards:
    """What ``ShardProcesses`` is, in this process, with NCCL of the stand-in."""

    counts = COUNTS

    def __init__(self, subject, process):
        self._hosts = {
            shard: ShardHost(
                ShardSettings(
                    shard_id=shard,
                    checkpoint=subject.path,
                    experts_by_layer=held,
                    dtype=DTYPES[NUMERICS],
                    numerics_profile=link_profile(NUMERICS, BF16, BF16, "cpu", "cpu"),
                    cluster_token=subject.cluster_token,
                    epochs=(EPOCH,),
                ),
                nccl=process(shard),
            )
            for shard, held in experts_held(subject, COUNTS).items()
        }

    def address_of(self, shard):
        return self._hosts[shard].address

    def counters(self, count):
        hosts = list(self._hosts.values())[:count]
        computed = [host.describe()["compute_seconds"] for host in hosts]
        return [Counters(seconds, time.process_time()) for seconds in computed]

    def close(self):
        for host in self._hosts.values():
            host.stop()


@pytest.fixture
def subject(tmp_path):
    path = tmp_path / "model"
    model = write_small_model(path, preset("tiny"), 1 << 20)
    return Subject(
        path=path, model=model, experts=BF16, dense=BF16, cluster_token=secrets.token_hex(32)
    )


def test_links_by_nccl_are_measured_beside_the_others(subject):
    with nccl_parts() as parts:
        shards = Shards(subject, parts.process)
        try:
            transports = (LinkTransport.GRPC, LinkTransport.NCCL)
            until_s = time.monotonic() + PLAN.budget_s
            found = measure_links(subject, shards, PLAN, until_s, transports, parts.gateway)
        finally:
            shards.close()
        assert parts.fabric.num_bytes > 0, "rows went by the stand-in"
    assert list(found) == list(transports)
    for link in found.values():
        assert link.costs.bytes_per_s > 0
        assert min(link.costs.gateway_s, link.costs.shard_s, link.costs.latency_s) >= 0


def test_a_link_that_has_gone_back_to_grpc_is_not_taken_for_nccl(subject):
    """Shards on another host, with no trust in the network between: each link goes by gRPC."""
    with nccl_parts() as parts:
        shards = Shards(subject, lambda shard: parts.process(shard, host="another"))
        topology = topology_of(subject.model, LinkTransport.NCCL, 2)
        try:
            with (
                pytest.raises(MeasureProcessError, match="0 of 2 links go by NCCL"),
                connected(subject, shards, topology, parts.gateway),
            ):
                pass
        finally:
            shards.close()
