"""``deploy/metrics.md`` says what processes expose: no more, no less."""

import re
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.ingress.busy import BusyMeter
from deploy.generate.metrics import sets, table
from galerne.topology import LinkTransport
from helpers.api_servers import http_served, make_frontend
from helpers.cluster import UNHURRIED
from helpers.fake_gateway import FakeGateway
from helpers.gateways import Collector, request
from helpers.switchable import ShardBook, shape, start_gateway
from helpers.waiting import wait_until
from router.api.beat import FrontendBeat
from router.api.key_files import KeyFiles
from router.gateway.metrics import show_pool
from router.gateway.pool import GatewayPool

TABLE = Path(__file__).parents[2] / "deploy/metrics.md"


def types_of(text):
    return dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))


def known(process):
    return {d.name: d.kind for d in sets()[process].definitions}


def labels_of(text):
    """Names of labels by metric, of those that have samples."""
    found = {}
    for name, inside in re.findall(r"^(\w+)\{([^\n]*)\} ", text, re.M):
        bare = re.sub(r"_(bucket|sum|count)$", "", name)
        found.setdefault(bare, set()).update(re.findall(r'(\w+)="', inside))
    return found


def assert_labels(process, text):
    wanted = {d.name: {*d.labels} for d in sets()[process].definitions}
    for name, labels in labels_of(text).items():
        assert labels - {"process", "le"} == wanted[name], name


def test_the_table_is_what_is_generated():
    assert TABLE.read_text() == table(), "make generated"


def test_every_metric_is_named_as_prometheus_names_them():
    for made in sets().values():
        for metric in made.definitions:
            assert metric.name.startswith("galerne_")
            assert metric.name.endswith("_total") == (metric.kind == "counter"), metric
            assert metric.text.endswith("."), metric
            for wrong in ("_ms", "_us", "_percent", "_kb", "_count", "_sum", "_bucket"):
                assert not metric.name.removesuffix("_total").endswith(wrong), metric


@pytest.fixture(scope="module")
def book():
    book = ShardBook()
    yield book
    book.close()


@pytest.fixture(scope="module")
def gateway(book):
    host = start_gateway(shape(1), book, exchange=UNHURRIED)
    host.collector = Collector()
    host.engine._on_deltas = host.collector
    yield host
    host.stop()


def value(page, name, **labels):
    """Of one sample in a page; zero if it is not there."""
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return 0.0


def test_gateways_and_shards_expose_what_the_table_says_whatever_the_transport(gateway, book):
    def run(epoch):
        gateway.engine.submit(request(f"r-{epoch}", max_tokens=8)).result(60)
        gateway.collector.tokens(f"r-{epoch}")
        return gateway.engine.metrics_text().decode()

    began_s = time.monotonic()
    page = run(1)
    assert value(page, "galerne_exchange_local_rows_total") > 0
    assert not re.search(r"^galerne_exchange_frames_total\{", page, re.M), "no shard is asked"
    for epoch, transport in ((2, LinkTransport.SHM), (3, LinkTransport.GRPC)):
        names = [f"shard-{2 * epoch + i}" for i in range(2)]
        target = shape(epoch, transport, names)
        book.start(target)
        gateway.switch.prepare(target, 60.0)
        gateway.switch.commit(target.epoch)
        page = run(epoch)
        assert types_of(page) == known("gateway")
        assert_labels("gateway", page)
        assert value(page, "galerne_gateway_epoch") == epoch
        assert value(page, "galerne_gateway_ready") == 1
        for name in names:
            sent = value(page, "galerne_exchange_frames_total", shard=name)
            answered = value(page, "galerne_exchange_round_trip_seconds_count", shard=name)
            rows = value(page, "galerne_exchange_rows_total", shard=name)
            assert rows >= sent == answered > 0
            metrics = book.hosts[name]._metrics
            wait_until(lambda m=metrics, n=sent: m.waits.sum() >= n)  # counted after the answer
            told = metrics.text().decode()
            assert types_of(told) == known("shard")
            assert_labels("shard", told)
            for counted in ("frames_total", "queue_seconds_count", "compute_seconds_count"):
                assert value(told, f"galerne_shard_{counted}") == sent, counted
            assert value(told, "galerne_shard_rows_total") == rows
            waited_s = value(told, "galerne_shard_queue_seconds_sum")
            assert 0 < waited_s < sent * (time.monotonic() - began_s), (
                "none waits longer than it is"
            )
            by_expert = re.findall(r"^galerne_shard_expert_rows_total\{.*\} (\S+)$", told, re.M)
            assert sum(map(float, by_expert)) == rows
    assert value(page, "galerne_exchange_local_rows_total") > 0, "of the gateway's life"
    assert value(page, "galerne_exchange_frames_total", shard="shard-4") == 0, "gone for good"
    assert value(page, "galerne_engine_queue_seconds_count") == 3


async def test_the_frontend_exposes_what_the_table_says():
    frontend = make_frontend(FakeGateway())
    KeyFiles(None, None, frontend.metrics.set)
    show_pool(frontend.metrics.set, GatewayPool(None, ""))
    tell = frontend.tell
    FrontendBeat(frontend, None)
    frontend.tell = tell  # no controller is here
    BusyMeter(frontend.metrics.set)
    async with http_served(frontend) as url, httpx.AsyncClient() as client:
        await client.get(f"{url}/health")
        await client.get(f"{url}/nothing/of/this")
        text = (await client.get(f"{url}/metrics")).text
    assert types_of(text) == known("frontend")
    assert_labels("frontend", text)
    assert 'galerne_http_responses_total{code="200",route="/health",process="frontend"} 1.0' in text
    assert 'galerne_http_responses_total{code="404",route="other",process="frontend"} 1.0' in text
    assert 'galerne_ready{process="frontend"} 1.0' in text
