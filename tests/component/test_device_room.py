"""A gateway whose GPU is nearly full: adapters and topologies that do not fit are refused."""

import pytest

from galerne.adapters import AdapterInfo
from galerne.topology import LinkTransport
from helpers.adapters import write_adapter
from helpers.fixture_models import checkpoint
from helpers.gateway_process import NAME
from helpers.gateways import Collector, request
from helpers.switchable import ShardBook, shape, start_gateway
from shards.adapters.adapter import open_adapter
from shards.adapters.sizes import adapter_tensors, ranks_of
from shards.device_room import DeviceFullError
from shards.kernels.device_sizes import allocated_bytes, expert_tensors
from shards.kernels.formats import WeightFormat

CONFIG = checkpoint(NAME).config
SIZES = CONFIG.hidden_size, CONFIG.expert_size
EXPERTS = int(
    CONFIG.num_layers
    * CONFIG.num_experts
    * allocated_bytes(expert_tensors(*SIZES, WeightFormat.BF16, 2))
)
SQL, OTHER = (AdapterInfo(name=name, directory=name) for name in ("sql", "other"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapters")
    write_adapter(path / "sql", CONFIG, seed=1)
    write_adapter(path / "other", CONFIG, seed=2)
    return path


def size_of(root, name):
    own = adapter_tensors(ranks_of(open_adapter(root / name, CONFIG)), CONFIG, 2)
    return int(allocated_bytes(own.dense) + allocated_bytes(own.routed))


def started(book=None, topology=None, **settings):
    host = start_gateway(topology or shape(1), book, **settings)
    host.hub.publish = host.engine._on_deltas = host.collector = Collector()
    return host


def tokens(gateway, name, adapter=""):
    gateway.engine.submit(request(name, range(20, 60), adapter=adapter, max_tokens=6)).result(60)
    return gateway.collector.tokens(name)


def test_an_adapter_without_room_is_refused_by_name_and_the_gateway_serves_on(root):
    one = size_of(root, "sql")
    gateway = started(adapters_root=root, device_room=EXPERTS + one + one // 2)
    try:
        plain = tokens(gateway, "plain")
        loaded = gateway.adapters.load(SQL)
        with pytest.raises(DeviceFullError, match="adapter other takes") as refused:
            gateway.adapters.load(OTHER)
        assert (refused.value.needed_bytes, refused.value.free_bytes) == (one, one // 2)
        assert gateway.adapters.ids == {loaded.id}
        assert tokens(gateway, "after") == plain
        gateway.adapters.unload(loaded.id, 60.0)
        other = gateway.adapters.load(OTHER)
        assert tokens(gateway, "other", other.id) != plain
    finally:
        gateway.stop()


def test_at_the_start_an_adapter_without_room_is_left_out_and_the_rest_is_served(root):
    one = size_of(root, "sql")
    room = {"adapters_root": root, "device_room": EXPERTS + one + one // 2}
    gateway = started(adapters=(SQL, OTHER), **room)
    try:
        assert gateway.adapters.ids == {open_adapter(root / "sql", CONFIG).id}
    finally:
        gateway.stop()


def test_experts_that_do_not_fit_keep_the_topology_as_it_is():
    book = ShardBook()
    away = shape(1, LinkTransport.SHM, ("shard-0", "shard-1"))
    book.start(away)
    gateway = started(book, away, device_room=EXPERTS - 1)
    try:
        before = tokens(gateway, "before")
        with pytest.raises(DeviceFullError, match="routed experts takes"):
            gateway.switch.prepare(shape(2), 60.0)
        assert gateway.switch.topology.epoch == 1
        assert tokens(gateway, "after") == before
    finally:
        gateway.stop()
        book.close()


def test_a_change_between_two_topologies_with_local_experts_needs_no_second_copy():
    gateway = started(device_room=EXPERTS)
    try:
        before = tokens(gateway, "before")
        gateway.switch.prepare(shape(2, max_num_seqs=2), 60.0)
        gateway.switch.shadow(2)
        gateway.switch.commit(2)
        assert gateway.switch.topology.max_num_seqs == 2
        assert tokens(gateway, "after") == before
    finally:
        gateway.stop()
