"""Real shards on loopback, in threads of the test, behind the real transport."""

from contextlib import contextmanager

import torch

from galerne.hello import Hello
from helpers.fixture_models import FIXTURES, checkpoint, exchange_over, topology
from router.exchange.deadline import ExchangeConfig
from router.exchange.grpc_link import LinkConfig
from router.exchange.grpc_transport import GrpcTransport
from router.exchange.shm_transport import ShmTransport
from shards.host import ShardHost, ShardSettings
from shards.kernels.formats import WeightFormat

TOKEN = "test-token"
RING_BYTES = 1 << 20  # less than the largest frames want: these go by the stream
PROFILE = "test-profile"
# Where frames are counted: a busy machine must not have them asked for twice.
UNHURRIED = ExchangeConfig(deadline_floor_s=30.0, deadline_cap_s=30.0)


class Shards:
    """Shard hosts by id; also the address book of the transport."""

    def __init__(
        self,
        shape,
        name="tiny-hf-bf16",
        dtype=torch.bfloat16,
        path=None,
        held=WeightFormat.BF16,
        only=None,
        profile=PROFILE,
        tls=None,
        nccl=lambda shard: None,
        **settings,
    ):
        self.nccl = nccl
        self.shape = shape
        self.dtype = dtype
        self.held = held
        self.path = path or FIXTURES / name
        self.profile = profile
        self.settings = settings
        self.tls = tls
        self.hosts = {}
        for shard in only or shape.shards:
            self.start(shard)

    def start(self, shard):
        settings = ShardSettings(
            shard_id=shard,
            checkpoint=self.path,
            experts_by_layer=self.shape.placement.experts_of(shard),
            dtype=self.dtype,
            held=self.held,
            numerics_profile=self.profile,
            cluster_token=TOKEN,
            epochs=(self.shape.epoch,),
            **self.settings,
            tls=self.tls,
        )
        self.hosts[shard] = ShardHost(settings, nccl=self.nccl(shard))

    def stop(self, shard):
        self.hosts.pop(shard).stop()

    def address_of(self, shard):
        host = self.hosts.get(shard)
        return None if host is None else host.address

    def close(self):
        for shard in list(self.hosts):
            self.stop(shard)


def create_shm(shards, greeting, token, book, config=None, tls=None):
    return ShmTransport(shards, greeting, token, book, RING_BYTES, config, tls)


def hello(source, shape, incarnation=7):
    return Hello(
        gateway="gateway-0",
        incarnation=incarnation,
        fingerprint=source.fingerprint,
        numerics_profile=PROFILE,
        epoch=shape.epoch,
    )


@contextmanager
def remote_exchange(
    num_shards,
    *,
    create=GrpcTransport,
    source=None,
    path=None,
    replicas=1,
    row_budget=4096,
    config=None,
    held=WeightFormat.BF16,
):
    """An ``ExpertExchange`` over shards behind servers, and the shards."""
    source = source or checkpoint()
    names = [f"shard-{i}" for i in range(num_shards)]
    shape = topology(source.config, names, replicas=replicas, row_budget=row_budget)
    shards = Shards(shape, path=path, held=held)
    fast = LinkConfig(backoff_min_s=0.01, backoff_max_s=0.05)
    transport = create(shape.shards, hello(source, shape), TOKEN, shards, config=fast)
    exchange = exchange_over(transport, shape, config)
    try:
        yield exchange, shards
    finally:
        exchange.close()
        shards.close()
