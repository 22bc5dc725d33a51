"""A gateway loads and unloads adapters while it serves, and keeps them through changes."""

import shutil
import time
from dataclasses import replace

import pytest

from galerne.adapters import AdapterInfo
from galerne.errors import CheckpointError, ConfigError, InvalidRequestError
from galerne.topology import LinkTransport
from helpers.adapters import write_adapter
from helpers.fixture_models import checkpoint
from helpers.gateway_process import NAME
from helpers.gateways import Collector, request
from helpers.records import only_record
from helpers.switchable import ShardBook, shape, start_gateway
from router.engine.request import ResumedChoice
from router.gateway.adapters import AdapterInUseError
from router.gateway.replay import replay
from shards.adapters.directory import find_adapter

CONFIG = checkpoint(NAME).config
SQL = AdapterInfo(name="sql", directory="sql")
OTHER = AdapterInfo(name="other", directory="other")
PROMPT = tuple(range(20, 60))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapters")
    write_adapter(path / "sql", CONFIG, seed=1)
    write_adapter(path / "other", CONFIG, seed=2, routed=False)
    return path


def watched(host):
    host.collector = Collector()
    host.hub.publish = host.collector
    host.engine._on_deltas = host.collector
    return host


@pytest.fixture
def gateway(root):
    host = watched(start_gateway(shape(1), None, adapters_root=root))
    yield host
    host.stop()


def submit(gateway, name, adapter="", **sampling):
    fields = {"max_tokens": 6, **sampling}
    wanted = request(name, PROMPT, adapter=adapter, **fields)
    gateway.engine.submit(wanted).result(60)


def tokens(gateway, name, adapter="", **sampling):
    submit(gateway, name, adapter, **sampling)
    return gateway.collector.tokens(name)


def test_an_adapter_comes_and_goes_while_others_run(gateway):
    plain = tokens(gateway, "before")
    submit(gateway, "long", max_tokens=300)
    adapter = gateway.adapters.load(SQL)
    assert gateway.adapters.ids == {adapter.id}
    adapted = tokens(gateway, "adapted", adapter.id)
    assert adapted != plain
    gateway.adapters.unload(adapter.id, 60.0)
    assert gateway.adapters.ids == frozenset()
    with pytest.raises(InvalidRequestError, match=r"model: adapter \w+ is not loaded"):
        submit(gateway, "late", adapter.id)
    assert tokens(gateway, "after") == plain
    assert len(gateway.collector.tokens("long")) == 300
    assert gateway.adapters.load(SQL).id == adapter.id
    assert tokens(gateway, "again", adapter.id) == adapted


def test_an_adapter_in_use_stays_at_the_deadline(gateway, monkeypatch):
    adapter = gateway.adapters.load(SQL)
    run = gateway._built.runner.run

    def run_slowly(step, chunks):
        time.sleep(0.01)
        return run(step, chunks)

    monkeypatch.setattr(gateway._built.runner, "run", run_slowly)  # 900 steps outlast the deadline
    submit(gateway, "long", adapter.id, max_tokens=900)
    with pytest.raises(AdapterInUseError, match="1 requests still use"):
        gateway.adapters.unload(adapter.id, 0.1)
    assert gateway.adapters.ids == {adapter.id}
    assert tokens(gateway, "again", adapter.id)
    gateway.engine.abort("long").result(60)
    gateway.adapters.unload(adapter.id, 60.0)
    assert gateway.adapters.ids == frozenset()


def test_an_adapter_that_leaves_takes_only_what_ran_elsewhere_before(gateway):
    adapter = gateway.adapters.load(SQL)
    want = tokens(gateway, "whole", adapter.id)
    leaving = gateway.adapters._step_runner.leaving
    leaving.add(adapter.id)
    with pytest.raises(InvalidRequestError, match="being unloaded"):
        submit(gateway, "new", adapter.id)
    moved = replace(
        request("moved", PROMPT, adapter=adapter.id, max_tokens=6),
        resumed=(ResumedChoice(tuple(want[:2])),),
    )
    gateway.engine.submit(moved).result(60)
    assert gateway.collector.tokens("moved") == want[2:]
    leaving.clear()
    assert tokens(gateway, "new", adapter.id) == want


def test_equal_prompts_of_two_adapters_share_no_cache(gateway):
    ids = [
        "",
        *(gateway.adapters.load(AdapterInfo(name=n, directory=n)).id for n in ("sql", "other")),
    ]
    first = [tokens(gateway, f"first{i}", adapter) for i, adapter in enumerate(ids)]
    assert len(set(map(tuple, first))) == 3
    cached = [gateway.collector.wait(f"first{i}")[0].num_cached_tokens for i in range(3)]
    assert cached == [0, 0, 0]
    assert [tokens(gateway, f"next{i}", adapter) for i, adapter in enumerate(ids)] == first
    assert gateway.collector.wait("next1")[0].num_cached_tokens > 0


def test_what_cannot_be_loaded_leaves_the_gateway_as_it_was(gateway):
    with pytest.raises(CheckpointError, match="directory of an adapter"):
        gateway.adapters.load(AdapterInfo(name="x", directory="nothing"))
    assert gateway.adapters.ids == frozenset()
    assert tokens(gateway, "still")


def test_a_gateway_starts_with_the_adapters_it_is_told_and_without_those_that_are_gone(root):
    known = (SQL, AdapterInfo(name="gone", directory="gone", id="0" * 16))
    host = watched(start_gateway(shape(1), None, adapters_root=root, adapters=known))
    try:
        (adapter_id,) = host.adapters.ids
        assert tokens(host, "at once", adapter_id)
    finally:
        host.stop()


def test_a_record_with_adapters_is_repeated_wherever_they_lie_now(root, tmp_path):
    host = watched(start_gateway(shape(1), None, adapters_root=root, record=tmp_path / "record"))
    try:
        submit(host, "plain", max_tokens=60)
        ids = [host.adapters.load(wanted).id for wanted in (SQL, OTHER)]
        for name, adapter in (("first", ids[0]), ("second", ids[1]), ("none", "")):
            submit(host, name, adapter, temperature=0.8, seed=3)
        for name in ("first", "second", "none", "plain"):
            host.collector.tokens(name)
        host.adapters.unload(ids[0], 60.0)
    finally:
        host.stop()
    record = only_record(tmp_path / "record")
    assert replay(record).is_good
    moved = tmp_path / "moved"
    shutil.copytree(root / "sql", moved / "renamed")
    shutil.copytree(root / "other", moved / "other")
    (moved / "empty").mkdir()
    assert replay(record, adapters=moved).is_good
    shutil.rmtree(moved / "renamed")
    with pytest.raises(ConfigError, match=f"holds no adapter {ids[0]}"):
        replay(record, adapters=moved)


@pytest.mark.parametrize("transport", [LinkTransport.GRPC, LinkTransport.SHM])
def test_adapters_survive_a_change_of_topology_under_their_requests(gateway, root, transport):
    adapter = gateway.adapters.load(SQL)
    want = tokens(gateway, "local", adapter.id, max_tokens=200)
    book = ShardBook()
    try:
        gateway.switch._sources._book = book
        target = shape(2, transport, ("shard-1", "shard-2"))
        book.start(target)
        for host in book.hosts.values():  # as a shard does at its start
            host._bank.add_adapter(find_adapter(root, SQL, CONFIG))
        submit(gateway, "moved", adapter.id, max_tokens=200)
        gateway.collector.wait("moved", tokens=10)
        change(gateway, target)
        assert gateway.collector.tokens("moved") == want
        assert tokens(gateway, "remote", adapter.id, max_tokens=200) == want
        change(gateway, shape(3))
        assert tokens(gateway, "back", adapter.id, max_tokens=200) == want
    finally:
        change_home = shape(4)
        change(gateway, change_home)
        book.close()


def change(gateway, target):
    gateway.switch.prepare(target, 60.0)
    gateway.switch.commit(target.epoch)


def test_a_shard_started_anew_has_its_adapters_before_it_answers(gateway, root):
    adapter = gateway.adapters.load(SQL)
    want = tokens(gateway, "local", adapter.id)
    book = ShardBook()
    try:
        gateway.switch._sources._book = book
        target = shape(2, LinkTransport.GRPC, ("shard-1", "shard-2"))
        known = (AdapterInfo(name="sql", directory="sql", id=adapter.id),)
        book.start(target, adapters_root=root, adapters=known)
        change(gateway, target)
        assert tokens(gateway, "remote", adapter.id) == want
        book.stop("shard-1")
        submit(gateway, "paused", adapter.id)
        book.start(target, adapters_root=root, adapters=known)
        assert gateway.collector.tokens("paused") == want
    finally:
        change(gateway, shape(3))
        book.close()
