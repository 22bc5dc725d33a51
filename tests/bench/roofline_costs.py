"""Calibrations of machines that are not here, from what their makers say: for the simulator.

Times are the bytes over the bandwidth plus the operations over the arithmetic, each at the share
that kernels reach; two operations for a product. What Python costs around a step is this machine's
own (``galerne doctor`` on the embedded model). Nothing of this was measured on such machines.
"""

from dataclasses import dataclass, replace

from cluster.planning.costs import Calibration, ExpertCost, Linear, LinkCosts, NodeCosts
from cluster.planning.shape import shape_of
from galerne.topology import LinkTransport
from shards.checkpoint.presets import preset
from shards.kernels.formats import WeightFormat

BF16 = WeightFormat.BF16
SMALL_4 = shape_of(preset("full-layer", num_layers=36), BF16, BF16)  # all layers are alike

_STEP = Linear(2e-4, 1.6e-5)
_REQUEST_S, _FRONTEND_S = 6e-5, 8e-4
_BANDWIDTH_SHARE, _ARITHMETIC_SHARE = 0.7, 0.5


@dataclass(frozen=True)
class Machine:
    """One node."""

    bytes_per_s: float
    flops: float  # bf16, dense
    num_workers: int  # shards that compute at once
    launch_s: float  # what a layer's kernels cost at least


H100 = Machine(bytes_per_s=3.35e12, flops=989e12, num_workers=1, launch_s=6e-5)
CPU_SERVER = Machine(bytes_per_s=200e9, flops=6e12, num_workers=1, launch_s=1e-5)

# A message there and back. TCP: what gRPC costs between two processes here, beside the wire.
ETHERNET_25 = LinkCosts(gateway_s=5e-5, shard_s=5e-5, latency_s=5e-5, bytes_per_s=25e9 / 8)
INFINIBAND_400 = LinkCosts(gateway_s=5e-6, shard_s=5e-6, latency_s=1e-5, bytes_per_s=400e9 / 8)


def node_costs(machine, shape=SMALL_4):
    """What a model's layers cost on a machine."""
    byte_s = 1 / (_BANDWIDTH_SHARE * machine.bytes_per_s)
    product_s = 2 / (_ARITHMETIC_SHARE * machine.flops)
    workers = machine.num_workers
    layer = Linear(machine.launch_s + shape.layer_bytes * byte_s, shape.layer_weights * product_s)
    experts = ExpertCost(
        fixed_s=machine.launch_s,
        per_expert_s=shape.expert_bytes * byte_s,
        per_row_s=shape.expert_weights * product_s,
    )
    cache_s = shape.kv_bytes_per_token / shape.num_layers * byte_s
    return NodeCosts(
        layer=layer,
        layer_beside=Linear(layer.fixed_s * workers, layer.per_unit_s * workers),
        attention_s=max(shape.attention_products * product_s, cache_s),
        experts=experts,
        shard_experts=replace(
            experts,
            per_expert_s=experts.per_expert_s * workers,
            per_row_s=experts.per_row_s * workers,
        ),
        head=Linear(shape.head_bytes * byte_s, shape.head_weights * product_s),
        step=_STEP,
        num_workers=workers,
    )


def calibration(gateway, shard, link, shape=SMALL_4):
    """Gateways and shards on machines of two kinds, and the network between them."""
    return Calibration(
        gateway=node_costs(gateway, shape),
        shard=node_costs(shard, shape),
        links={LinkTransport.GRPC: link},
        request_s=_REQUEST_S,
        frontend_s=_FRONTEND_S,
    )
