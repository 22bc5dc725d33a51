"""Mutual TLS between gateways, shards, frontends and the controller: real servers, real files."""

import asyncio
from contextlib import contextmanager

import grpc
import pytest
import torch

from cluster.control.part_client import PartClients, PartFailedError
from galerne.errors import ConfigError
from galerne.ids import ShardId
from galerne.internal_tls import InternalTls
from helpers.cluster import TOKEN, Shards, create_shm, hello
from helpers.exchange_frames import (
    FAST,
    create_frame,
    open_transport,
    receive,
    result_of,
    wait_up,
)
from helpers.fixture_models import checkpoint
from helpers.gateway_process import TOKEN as GATEWAY_TOKEN
from helpers.gateway_process import Directory, gateway_settings
from helpers.tls import Certificates
from helpers.waiting import until
from router.engine.request import GenerationRequest, SamplingParams
from router.gateway.host import GatewayHost
from router.gateway.member import Member
from router.gateway.pool import GatewayPool

SHARD = ShardId("shard-0")


@pytest.fixture
def certificates(tmp_path):
    return Certificates(tmp_path / "certs")


@contextmanager
def shards_with(shape, tls):
    shards = Shards(shape, tls=tls)
    try:
        yield shards
    finally:
        shards.close()


def assert_answered(transport, bank, number=0):
    frame = create_frame(SHARD, range(4), number)
    transport.send(frame)
    (answer,) = receive(transport, 1)
    assert torch.equal(answer.rows, result_of(bank, frame))


def assert_no_link(shape, shards, tls):
    with open_transport(shape, shards, tls=tls) as transport:
        assert transport.receive(0.6) is None


def test_frames_travel_with_tls_by_grpc_and_beside_shared_memory(certificates, shape, bank):
    tls = certificates.internal()
    with shards_with(shape, tls) as shards:
        with open_transport(shape, shards, tls=tls) as transport:
            wait_up(transport, 1)
            assert_answered(transport, bank)
        greeting = hello(checkpoint(), shape)
        shm = create_shm(shape.shards, greeting, TOKEN, shards, FAST, tls)
        try:
            wait_up(shm, 1)
            assert_answered(shm, bank)
        finally:
            shm.close()


def test_whoever_has_no_certificate_of_the_cluster_gets_no_link(
    certificates, tmp_path, shape, bank
):
    tls = certificates.internal()
    strangers = Certificates(tmp_path / "strangers").internal()
    cert, key = certificates.issue("named", ("another.name",))
    misnamed = InternalTls(cert=cert, key=key, ca=certificates.ca, name="another.name")
    with shards_with(shape, tls) as shards:
        # Plain text, another CA, an expired one, and a shard that is not called what was asked for.
        assert_no_link(shape, shards, None)
        assert_no_link(shape, shards, strangers)
        assert_no_link(shape, shards, certificates.internal("late", days=-1))
        assert_no_link(shape, shards, misnamed)
        with open_transport(shape, shards, tls=tls) as transport:
            wait_up(transport, 1)
            assert_answered(transport, bank)


def test_the_token_is_asked_for_beside_the_certificate(certificates, shape):
    tls = certificates.internal()
    with (
        shards_with(shape, tls) as shards,
        open_transport(shape, shards, token="wrong", tls=tls) as transport,
    ):
        assert transport.receive(0.6) is None


def test_a_new_ca_is_taken_while_an_open_link_goes_on(certificates, tmp_path, shape, bank):
    old = certificates.internal()
    newcomers = Certificates(tmp_path / "newcomers")
    with shards_with(shape, old) as shards, open_transport(shape, shards, tls=old) as open_link:
        wait_up(open_link, 1)
        new = newcomers.internal()
        for source, target in zip(new.paths, old.paths, strict=True):
            target.write_bytes(source.read_bytes())
        assert_answered(open_link, bank)
        with open_transport(shape, shards, tls=new) as transport:
            wait_up(transport, 1)
            assert_answered(transport, bank)
        gone = Certificates(tmp_path / "gone").internal()
        assert_no_link(shape, shards, gone)


def test_files_that_cannot_be_read_are_refused_by_name_at_the_start_and_ignored_later(
    certificates, shape, bank
):
    tls = certificates.internal()
    with shards_with(shape, tls) as shards:
        tls.key.rename(tls.key.with_suffix(".away"))
        other = certificates.internal("other")
        with open_transport(shape, shards, tls=other) as transport:
            wait_up(transport, 1)
            assert_answered(transport, bank)
    with pytest.raises(ConfigError, match="internal-key"):
        Shards(shape, tls=tls)


async def test_frontends_and_the_controller_reach_parts_with_tls_only(certificates, shape):
    tls = certificates.internal()
    host = await asyncio.to_thread(lambda: GatewayHost(gateway_settings(tls=tls), None))
    pool = GatewayPool(Directory(gateway=host.address), GATEWAY_TOKEN, tls=tls)
    clients = PartClients(GATEWAY_TOKEN, lambda _part: host.address, tls)
    plain = PartClients(GATEWAY_TOKEN, lambda _part: host.address)
    try:
        await pool.start(60.0)
        assert (await clients.state_of("gateway-0", 60.0)).unready_reason == ""
        with pytest.raises(PartFailedError, match="UNAVAILABLE"):
            await plain.state_of("gateway-0", 60.0)
        member = Member("gateway-0", host.address, GATEWAY_TOKEN)
        with pytest.raises(grpc.aio.AioRpcError):
            await member.describe(2.0)
        await member.close()

        request = GenerationRequest(
            request_id="r",
            prompt_token_ids=(1, 5, 6),
            sampling=SamplingParams(max_tokens=400, ignore_eos=True, seed=1),
        )
        stream = pool.submit(request)
        count = len((await anext(stream)).token_ids)
        first = pool._members["gateway"]
        certificates.internal()  # replaced by another of the same CA
        await until(lambda: pool._members.get("gateway") not in (None, first))
        assert (await clients.state_of("gateway-0", 60.0)).unready_reason == ""
        count += sum([len(delta.token_ids) async for delta in stream])
        assert count == 400, "what ran when the certificate was replaced goes on"
        assert await pool.unready_reason() is None
    finally:
        await pool.close()
        await clients.close()
        await plain.close()
        await asyncio.to_thread(host.stop)
