"""Costs, shapes and candidates for tests of the planner."""

from dataclasses import replace

from cluster.planning.candidate import Candidate
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.costs import Calibration, ExpertCost, Linear, LinkCosts, NodeCosts
from cluster.planning.gpu_memory import CacheRule, GpuMemory
from cluster.planning.load import Load
from cluster.planning.shape import shape_of
from galerne.topology import LinkTransport, Mode
from shards.checkpoint.presets import ONE_B
from shards.kernels.formats import WeightFormat

SHAPE = shape_of(ONE_B, WeightFormat.BF16, WeightFormat.BF16)
CONTEXT = 100.0  # keys; the measured streams were short

# Measured parts of the 1b checkpoint on two cores: (1 stream, 16 streams), ms.
PROJECTIONS, ATTENTION, GATE, SHARED = (0.15, 0.30), (0.03, 0.15), (0.01, 0.04), (0.05, 0.08)
EXPERTS = (0.20, 1.70)
EMBED, HEAD, REST = (0.26, 0.39), (0.65, 1.20), (0.41, 0.82)
EXPERT_LAYER_MS_BY_TOKENS = {1: 0.21, 4: 0.79, 16: 2.63, 64: 5.58, 256: 7.25}


def line(*parts):
    """The line through the sums of parts at 1 and at 16."""
    one, sixteen = (sum(part[i] for part in parts) / 1000 for i in (0, 1))
    slope = (sixteen - one) / 15
    return Linear(one - slope, slope)


def measured_experts():
    """Through the two figures of a running step; the cost of a row from the bench of the layer.

    A running step touches fewer experts than uniform routing would: its reads are cheaper.
    """
    per_row_s = 1.1e-6
    touched = [SHAPE.num_touched(tokens) for tokens in (1, 16)]
    reads = [ms / 1000 - per_row_s * 4 * n for ms, n in zip(EXPERTS, (1, 16), strict=True)]
    slope = (reads[1] - reads[0]) / (touched[1] - touched[0])
    return ExpertCost(
        fixed_s=reads[0] - slope * touched[0], per_expert_s=slope, per_row_s=per_row_s
    )


def create_node(**overrides):
    """This machine: two cores."""
    attention = line(ATTENTION)
    dense = line(PROJECTIONS, GATE, SHARED)
    experts = measured_experts()
    fields = {
        # What attention costs besides its keys belongs to no key.
        "layer": Linear(dense.fixed_s + attention.fixed_s, dense.per_unit_s),
        "layer_beside": Linear(1.4 * (dense.fixed_s + attention.fixed_s), 2 * dense.per_unit_s),
        "attention_s": attention.per_unit_s / CONTEXT,
        "experts": experts,
        "shard_experts": ExpertCost(
            fixed_s=experts.fixed_s,
            per_expert_s=1.6 * experts.per_expert_s,
            per_row_s=2 * experts.per_row_s,
        ),
        "head": line(HEAD),
        "step": line(EMBED, REST),
        "num_workers": 2,
    }
    return NodeCosts(**{**fields, **overrides})


def create_calibration(*, bytes_per_s=1e9, **node):
    """This machine, and gRPC links of ``bytes_per_s``."""
    costs = create_node(**node)
    links = {
        LinkTransport.SHM: LinkCosts(
            gateway_s=15e-6, shard_s=15e-6, latency_s=30e-6, bytes_per_s=8e9
        ),
        LinkTransport.GRPC: LinkCosts(
            gateway_s=80e-6, shard_s=80e-6, latency_s=150e-6, bytes_per_s=bytes_per_s
        ),
    }
    return Calibration(gateway=costs, shard=costs, links=links, request_s=1e-3, frontend_s=2e-3)


LOCAL = Candidate(
    mode=Mode.LATENCY,
    transport=LinkTransport.LOCAL,
    gateways=1,
    shards=1,
    replicas=1,
    micro_batches=1,
    max_num_seqs=64,
    max_batched_tokens=1024,
)
NEAR = replace(LOCAL, transport=LinkTransport.SHM, shards=4)
FAR = replace(LOCAL, transport=LinkTransport.GRPC, shards=8, shard_nodes=8)


def create_load(rate=5.0, **fields):
    """64 tokens in, 64 out."""
    return Load(**{"requests_per_s": rate, "prompt_tokens": 64, "output_tokens": 64, **fields})


def create_gpu_memory(free_bytes, shape=SHAPE, **fields):
    """A GPU that holds weights and caches alone, to the byte."""
    defaults = {
        "free_bytes": free_bytes,
        "shard_free_bytes": free_bytes,
        "dense_bytes": shape.dense_bytes,
        "expert_bytes": shape.num_layers * shape.expert_bytes,
        "num_experts": shape.num_experts,
        "token_bytes": shape.kv_bytes_per_token,
        "least_cache_bytes": 0.0,
        "cache": CacheRule(1.0),
    }
    return GpuMemory(**{**defaults, **fields})


def create_cluster(nodes=1, gpu_bytes=0.0, **fields):
    """Machines of two cores that can be either; ``gpu_bytes``: of a GPU, if they have some."""
    defaults = {
        "gateway_nodes": nodes,
        "gateway_node_bytes": 16e9,
        "cores_per_node": 2,
        "transports": frozenset(LinkTransport),
        "shard_nodes": nodes - 1,
        "shard_node_bytes": 16e9,
        "max_nodes": nodes,
        "gpu_memory": create_gpu_memory(gpu_bytes),
    }
    return ClusterShape(**{**defaults, **fields})
