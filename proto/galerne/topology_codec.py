"""A topology as a message and back."""

from __future__ import annotations

from itertools import islice

from galerne.errors import ProtocolError
from galerne.ids import Epoch, GatewayId, ShardId
from galerne.topology import LinkTransport, Mode, Placement, Replicas, Topology
from galerne.v1 import internal_pb2 as internal

_COUNTS = ("num_micro_batches", "max_num_seqs", "max_batched_tokens", "row_budget")


def encode_topology(topology: Topology) -> internal.Topology:
    """Every field; equal layers once."""
    layers = topology.placement.by_layer
    number = {shard: i for i, shard in enumerate(topology.shards)}
    distinct = layers[:1] if all(layer == layers[0] for layer in layers) else layers
    return internal.Topology(
        epoch=topology.epoch,
        mode=topology.mode.value,
        gateways=topology.gateways,
        shards=topology.shards,
        transport=topology.transport.value,
        layers=[
            internal.LayerPlacement(
                num_replicas=[len(replicas) for replicas in layer],
                shards=[number[shard] for replicas in layer for shard in replicas],
            )
            for layer in distinct
        ],
        num_layers=len(layers),
        **{name: getattr(topology, name) for name in _COUNTS},
    )


def decode_topology(message: internal.Topology) -> Topology:
    """The topology as it was.

    Raises:
        ProtocolError: It is none.
    """
    shards = tuple(ShardId(shard) for shard in message.shards)
    try:
        return Topology(
            epoch=Epoch(message.epoch),
            mode=Mode(message.mode),
            gateways=tuple(GatewayId(gateway) for gateway in message.gateways),
            shards=shards,
            placement=Placement(_layers(message, shards)),
            transport=LinkTransport(message.transport),
            **{name: getattr(message, name) for name in _COUNTS},
        )
    except (ValueError, IndexError) as error:
        raise ProtocolError(f"topology: {error}") from error


def _layers(
    message: internal.Topology, shards: tuple[ShardId, ...]
) -> tuple[tuple[Replicas, ...], ...]:
    layers = tuple(_layer(layer, shards) for layer in message.layers)
    if len(layers) == 1:
        layers *= message.num_layers
    if len(layers) != message.num_layers:
        raise ValueError(f"{len(layers)} layers of {message.num_layers}")
    return layers


def _layer(message: internal.LayerPlacement, shards: tuple[ShardId, ...]) -> tuple[Replicas, ...]:
    if sum(message.num_replicas) != len(message.shards):
        raise ValueError("replicas and shards of a layer differ in number")
    named = iter([shards[number] for number in message.shards])
    return tuple(tuple(islice(named, count)) for count in message.num_replicas)
