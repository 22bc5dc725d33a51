"""A gateway of the tiny checkpoint, and shards of any topology, in threads of the test."""

from dataclasses import replace

from galerne.ids import Epoch, ShardId
from galerne.loop_thread import grpc_loop
from galerne.topology import LinkTransport, contiguous_placement
from helpers.cluster import Shards
from helpers.fixture_models import FIXTURES, checkpoint, topology
from helpers.gateway_process import NAME, gateway_settings
from router.gateway.host import GatewayHost
from router.gateway.settings import numerics_profile
from shards.kernels.formats import WeightFormat
from shards.residency import as_set

PROFILE = numerics_profile("bf16", WeightFormat.BF16, WeightFormat.BF16)


def shape(epoch, transport=LinkTransport.LOCAL, shards=("shard-0",), replicas=1, **changes):
    """A topology of the tiny model."""
    config = checkpoint(NAME).config
    ids = tuple(map(ShardId, shards))
    placement = contiguous_placement(config.num_layers, config.num_experts, ids, replicas)
    fields = {"epoch": Epoch(epoch), "transport": transport, "placement": placement}
    return replace(topology(config, shards, replicas=replicas), **fields | changes)


class ShardBook:
    """Shard processes' stand-ins by id; also the gateway's address book."""

    def __init__(self):
        self.hosts = {}

    def start(self, topology, only=None, **settings):
        """Start the shards of a topology that do not run yet."""
        wanted = [s for s in only or topology.shard_processes if s not in self.hosts]
        if wanted:
            fields = {"path": FIXTURES / NAME, "only": wanted, "profile": PROFILE} | settings
            made = Shards(topology, **fields)
            self.hosts |= made.hosts

    def stop(self, shard):
        self.hosts.pop(ShardId(shard)).stop()

    def replace_epochs(self, topology):
        """The shards of a topology serve it, and nothing else from now on."""
        for shard in topology.shards:
            control = self.hosts[shard]._server._control
            experts = as_set(topology.placement.experts_of(shard))
            grpc_loop().run(control.prepare(topology.epoch, experts), 10)
            grpc_loop().run(control.retire([topology.epoch]), 10)

    def address_of(self, shard):
        host = self.hosts.get(shard)
        return None if host is None else host.address

    def close(self):
        for shard in list(self.hosts):
            self.stop(shard)


def start_gateway(topology, book, **changes):
    return GatewayHost(gateway_settings(topology=topology, **changes), book)
