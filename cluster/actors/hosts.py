"""What the actors of parts run. Loads torch, which reads its environment then."""

from __future__ import annotations

import ray

from cluster.actors.launch_spec import NAMESPACE, LaunchSpec
from cluster.actors.reporting import Reporter
from cluster.directory import RayAddressBook
from galerne.ids import GatewayId, ShardId
from galerne.topology import Topology
from router.gateway.host import GatewayHost
from router.gateway.settings import DTYPES, GatewaySettings, link_profile
from shards.host import ShardHost, ShardSettings


def start_gateway(
    spec: LaunchSpec, gateway_id: GatewayId, topology: Topology, reporter: Reporter
) -> GatewayHost:
    """A gateway that serves in this process; raises as ``GatewayHost``."""
    settings = GatewaySettings(
        gateway_id=gateway_id,
        checkpoint=spec.checkpoint,
        model_name=spec.model_name,
        numerics=spec.numerics,
        experts=spec.experts,
        dense=spec.dense,
        device=spec.device,
        shard_device=spec.shard_device,
        topology=topology,
        cluster_token=spec.cluster_token,
        tls=spec.tls,
        trusts_network=spec.trusts_network,
        max_model_len=spec.max_model_len,
        kv_bytes=spec.kv_bytes,
        num_threads=spec.gateway_threads,
        num_beside=spec.gateway_threads_beside,
        host=_bind_host(spec),
        vision=spec.vision,
        record=spec.record,
        adapters_root=spec.adapters,
        adapters=reporter.start_adapters() if spec.adapters is not None else (),
        device_room=spec.device_rooms.gateway,
        speculation=spec.speculation,
        tracing=spec.tracing,
    )
    book = RayAddressBook(spec.controller_name, NAMESPACE)
    return GatewayHost(settings, book, reporter.progress, reporter.wake)


def start_shard(
    spec: LaunchSpec, shard_id: ShardId, topology: Topology, reporter: Reporter
) -> ShardHost:
    """A shard that serves in this process; raises as ``ShardHost``."""
    settings = ShardSettings(
        shard_id=shard_id,
        checkpoint=spec.checkpoint,
        experts_by_layer=topology.placement.experts_of(shard_id),
        dtype=DTYPES[spec.numerics],
        held=spec.experts,
        device=spec.shard_device,
        numerics_profile=link_profile(
            spec.numerics, spec.experts, spec.dense, spec.device, spec.shard_device
        ),
        cluster_token=spec.cluster_token,
        tls=spec.tls,
        trusts_network=spec.trusts_network,
        epochs=(topology.epoch,),
        host=_bind_host(spec),
        num_threads=spec.shard_threads,
        core=_own_core(spec, topology, shard_id),
        adapters_root=spec.adapters,
        adapters=reporter.start_adapters() if spec.adapters is not None else (),
        device_room=spec.device_rooms.shard,
    )
    return ShardHost(settings, lambda done, of: reporter.progress("experts", done, of))


def _own_core(spec: LaunchSpec, topology: Topology, shard_id: ShardId) -> int | None:
    """Shards on one node take its cores in turn."""
    shards = topology.shards
    is_alone = len(shards) == 1 or not spec.is_one_node
    return None if is_alone else shards.index(shard_id)


def _bind_host(spec: LaunchSpec) -> str:
    """Where internal ports bind: loopback, or this node's address on a trusted network."""
    return "127.0.0.1" if spec.is_one_node else str(ray.util.get_node_ip_address())
