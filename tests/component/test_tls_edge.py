"""The TLS edge: a real HAProxy before real servers, and those who mean it ill."""

import asyncio
import os
import signal
import ssl
from functools import partial

import grpc
import httpx
import openai
import psutil
import pytest

from cluster.certificates import SmallAuthority
from cluster.edge.keeper import TlsFiles
from galerne.errors import ConfigError
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc
from helpers.api_servers import ids_of, make_frontend
from helpers.fake_gateway import Answer, FakeGateway
from helpers.resuming import read_rest
from helpers.tls import Certificates, edge_before, sample
from helpers.waiting import PATIENCE_S, small_window, until
from router.api.audit import AuditLog
from router.api.keys import ApiKeys

BODY = {"model": "fake", "prompt": "x", "stream": True, "max_tokens": 4000}
# With TLS 1.3 the refusal comes after the handshake, and httpx lets it through as it is.
REFUSED = (httpx.TransportError, ssl.SSLError)
CERT_TAKEN = partial(sample, name="galerne_tls_certificate_changes_total", outcome="taken")
CERT_REFUSED = partial(sample, name="galerne_tls_certificate_changes_total", outcome="refused")


@pytest.fixture
def certificates(tmp_path):
    return Certificates(tmp_path / "certs")


def make(gateway=None, **options):
    return make_frontend(gateway or FakeGateway(Answer(ids_of("served"))), **options)


def credentials(certificates, client=None):
    cert, key = (path.read_bytes() for path in client) if client else (None, None)
    return grpc.ssl_channel_credentials(certificates.ca.read_bytes(), key, cert)


async def status(edge, context, path="/health"):
    async with httpx.AsyncClient(verify=context, timeout=60) as client:
        return (await client.get(f"{edge.http}{path}")).status_code


async def alpn_of(port, context):
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    version = writer.get_extra_info("ssl_object").version()
    writer.close()
    return chosen, version


async def serial(edge, certificates):
    _, writer = await asyncio.open_connection("127.0.0.1", edge.port, ssl=certificates.context())
    shown = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    return shown


async def test_openai_and_grpc_clients_are_served_with_tls(certificates, tmp_path):
    frontend = make()
    async with edge_before(frontend, certificates.edge_files(), tmp_path) as edge:
        async with (
            httpx.AsyncClient(verify=certificates.context()) as http,
            openai.AsyncOpenAI(base_url=f"{edge.http}/v1", api_key="k", http_client=http) as client,
        ):
            stream = await client.completions.create(model="fake", prompt="x", stream=True)
            assert "".join([chunk.choices[0].text async for chunk in stream]) == "served"
        async with grpc.aio.secure_channel(edge.grpc, credentials(certificates)) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            events = [e async for e in stub.Generate(pb.GenerateRequest(text="x"))]
            assert events[-1].usage.completion_tokens > 1
        context = certificates.context(alpn=("h2", "http/1.1"))
        assert await alpn_of(edge.port, context) == ("h2", "TLSv1.3")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await alpn_of(edge.port, context) == ("h2", "TLSv1.2")
        async with httpx.AsyncClient() as client:
            assert "haproxy_process_" in (await client.get(edge.metrics)).text


async def test_what_a_client_says_of_its_address_is_not_believed(certificates, tmp_path):
    frontend = make(keys=ApiKeys(["k"]), audit=AuditLog(tmp_path / "audit"))
    async with edge_before(frontend, certificates.edge_files(), tmp_path) as edge:
        async with httpx.AsyncClient(verify=certificates.context()) as client:
            forged = {"X-Forwarded-For": "8.8.8.8"}
            answer = await client.get(f"{edge.http}/v1/models", headers=forged)
        assert answer.status_code == 401
    line = (tmp_path / "audit").read_text()
    assert "127.0.0.1" in line
    assert "8.8.8.8" not in line


async def test_clients_must_show_a_certificate_that_holds_where_it_is_asked_for(
    certificates, tmp_path
):
    strangers = Certificates(tmp_path / "strangers")
    files = certificates.edge_files(certificates.ca)
    good = certificates.issue("client")
    async with edge_before(make(), files, tmp_path) as edge:
        assert await status(edge, certificates.context(good)) == 200
        async with grpc.aio.secure_channel(edge.grpc, credentials(certificates, good)) as channel:
            await asyncio.wait_for(channel.channel_ready(), 60)
        expired = certificates.issue("late", days=-1)
        for bad in (None, strangers.issue("client"), expired):
            with pytest.raises(REFUSED):
                await status(edge, certificates.context(bad))
            async with grpc.aio.secure_channel(
                edge.grpc, credentials(certificates, bad)
            ) as channel:
                stub = inference_pb2_grpc.InferenceServiceStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=60)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await status(edge, certificates.context(good)) == 200


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda made: made.edge_files(days=-1), "has expired"),
        (lambda made: TlsFiles(made.issue("a")[0], made.issue("b")[1]), "does not belong"),
        (lambda made: TlsFiles(made.ca, made.directory / "none"), "tls.key"),
        (lambda made: TlsFiles(made.issue("a")[1], made.issue("b")[1]), "no certificate"),
        (lambda made: made.edge_files(made.issue("a")[1]), "tls.client_ca"),
    ],
)
async def test_certificates_that_cannot_be_used_are_refused_by_name(
    certificates, tmp_path, spoil, said
):
    with pytest.raises(ConfigError, match=said):
        async with edge_before(make(), spoil(certificates), tmp_path):
            pytest.fail("was started")


async def test_plain_text_to_a_tls_port_gets_nothing_and_disturbs_nobody(certificates, tmp_path):
    async with edge_before(make(), certificates.edge_files(), tmp_path) as edge:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b"200" not in await asyncio.wait_for(reader.read(), 60)
        writer.close()
        async with grpc.aio.insecure_channel(edge.grpc) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=60)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await status(edge, certificates.context()) == 200


async def test_a_body_of_100_mb_is_refused_by_its_length_before_it_is_sent(certificates, tmp_path):
    gateway = FakeGateway()
    async with edge_before(make(gateway), certificates.edge_files(), tmp_path) as edge:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", edge.port, ssl=certificates.context()
        )
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 104857600\r\n\r\n"
        )
        head = await asyncio.wait_for(reader.read(4096), 60)
        assert head.startswith(b"HTTP/1.1 413 ")
        assert b'"param": "body"' in head
        writer.close()
    assert gateway.runs == []


async def test_headers_that_are_too_long_are_refused(certificates, tmp_path):
    async with (
        edge_before(make(), certificates.edge_files(), tmp_path) as edge,
        httpx.AsyncClient(verify=certificates.context()) as client,
    ):
        answer = await client.get(f"{edge.http}/health", headers={"X-Long": "x" * 20_000})
        assert answer.status_code in (400, 431)
        assert (await client.get(f"{edge.http}/health")).status_code == 200


async def test_a_client_that_drips_its_headers_is_given_up_while_others_are_served(
    certificates, tmp_path
):
    files = certificates.edge_files()
    async with edge_before(make(), files, tmp_path, headers_timeout_s=2.0) as edge:
        loris = [
            await asyncio.open_connection("127.0.0.1", edge.port, ssl=certificates.context())
            for _ in range(20)
        ]

        async def drip():
            while True:
                for _, writer in loris:
                    writer.write(b"X-Drip: 1\r\n")
                await asyncio.sleep(0.05)

        for _, writer in loris:
            writer.write(b"GET /health HTTP/1.1\r\n")
        dripping = asyncio.create_task(drip())
        assert await status(edge, certificates.context()) == 200
        for reader, _ in loris:
            assert b"200" not in await asyncio.wait_for(reader.read(), 60)
        dripping.cancel()
        for _, writer in loris:
            writer.close()


async def test_a_client_that_does_not_read_is_given_up_and_its_request_ended(
    certificates, tmp_path
):
    gateway = FakeGateway()
    files = certificates.edge_files()
    async with edge_before(make(gateway), files, tmp_path, client_timeout_s=1.0) as edge:
        reader, writer = await asyncio.open_connection(
            sock=small_window(edge.port),
            ssl=certificates.context(),
            server_hostname="localhost",
            limit=1024,
        )
        request = httpx.Request("POST", f"{edge.http}/v1/completions", json=BODY)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: {len(request.content)}"
        writer.write(f"{head}\r\n\r\n".encode() + request.content)
        run = await gateway.next_run()
        text = ids_of("word " * 200)
        for step in range(100_000):  # more than the kernel's buffers take, until it was given up
            if run.aborted.is_set():
                break
            run.emit(*text)
            if step % 20 == 0:
                await asyncio.sleep(0.005)
        await asyncio.wait_for(run.aborted.wait(), 60)
        assert await status(edge, certificates.context()) == 200
        writer.transport.abort()
        del reader


async def test_a_stream_that_says_nothing_for_long_is_not_given_up(certificates, tmp_path):
    gateway = FakeGateway()
    files = certificates.edge_files()
    async with (
        edge_before(
            make(gateway), files, tmp_path, client_timeout_s=1.0, headers_timeout_s=1.0
        ) as edge,
        httpx.AsyncClient(verify=certificates.context(), timeout=60) as client,
        grpc.aio.secure_channel(edge.grpc, credentials(certificates)) as channel,
    ):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        call = stub.Generate(pb.GenerateRequest(text="x"))
        posting = asyncio.create_task(client.post(f"{edge.http}/v1/completions", json=BODY))
        runs = [await gateway.next_run(), await gateway.next_run()]
        for run in runs:
            run.emit(5)
        await call.read()
        await asyncio.sleep(3.0)  # three times what it may stall
        for run in runs:
            run.emit(6)
            run.end()
        assert (await read_rest(call))[-1].HasField("usage")
        assert (await posting).text.endswith("data: [DONE]\n\n")


async def test_new_certificates_are_taken_without_a_reload_and_open_streams_go_on(
    certificates, tmp_path
):
    gateway = FakeGateway()
    files = certificates.edge_files(certificates.ca)
    good = certificates.issue("client")
    # The first CA stays in the file, as while a new one is rolled out.
    newcomers = Certificates(tmp_path / "newcomers")
    async with edge_before(make(gateway), files, tmp_path) as edge:
        pid = edge.keeper.pid
        async with grpc.aio.secure_channel(edge.grpc, credentials(certificates, good)) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            call = stub.Generate(pb.GenerateRequest(text="x"))
            run = await gateway.next_run()
            run.emit(5)
            await call.read()
            with pytest.raises(REFUSED):
                await status(edge, certificates.context(newcomers.issue("client")))
            certificates.issue("server")
            # More of them than one command of HAProxy takes.
            others = b"".join(SmallAuthority(1).certificate for _ in range(40))
            known = certificates.authority.certificate + newcomers.authority.certificate
            certificates.ca.write_bytes(known + others)
            await until(lambda: CERT_TAKEN(edge) >= 1)
            newcomer = newcomers.directory / "client.pem", newcomers.directory / "client-key.pem"
            await until_status(edge, certificates.context(newcomer))
            run.emit(6)
            run.end()
            assert (await read_rest(call))[-1].HasField("usage")
        assert edge.keeper.pid == pid
        assert sample(edge, "galerne_tls_edge_restarts_total") == 0


async def until_status(edge, context, timeout_s=PATIENCE_S):
    """Until a client is let in."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                assert await status(edge, context) == 200
            except REFUSED:
                await asyncio.sleep(0.05)
            else:
                return


async def test_a_bad_certificate_is_not_taken_and_the_old_one_goes_on(certificates, tmp_path):
    files = certificates.edge_files()
    async with edge_before(make(), files, tmp_path) as edge:
        before = sample(edge, "galerne_tls_certificate_expires_timestamp_seconds")
        certificates.issue("server", days=-1)
        await until(lambda: CERT_REFUSED(edge) == 1)
        assert await status(edge, certificates.context()) == 200
        certificates.issue("server", days=1)
        await until(lambda: CERT_TAKEN(edge) == 1)
        assert sample(edge, "galerne_tls_certificate_expires_timestamp_seconds") < before
        assert await status(edge, certificates.context()) == 200


async def test_an_edge_that_cannot_write_its_files_serves_on_and_takes_the_certificate_later(
    certificates, tmp_path
):
    """As with a full /tmp: the keeper must not end, and HAProxy with it."""
    files = certificates.edge_files()
    async with edge_before(make(), files, tmp_path) as edge:
        pid, looks = edge.keeper.pid, sample(edge, "galerne_tls_certificate_looks_total")
        in_the_way = tmp_path / "e" / "server.pem.new"
        in_the_way.mkdir()
        certificates.issue("server")
        await asyncio.sleep(0.5)  # ten looks
        assert sample(edge, "galerne_tls_certificate_looks_total") > looks
        assert await status(edge, certificates.context()) == 200
        in_the_way.rmdir()
        await until(lambda: CERT_TAKEN(edge) == 1)
        assert edge.keeper.pid == pid
        assert await status(edge, certificates.context()) == 200


async def test_an_edge_that_cannot_be_started_again_at_once_is_later(certificates, tmp_path):
    files = certificates.edge_files()
    async with edge_before(make(), files, tmp_path) as edge:
        log = tmp_path / "e" / "haproxy.log"
        log.unlink()
        log.mkdir()  # no process can be given it
        os.kill(edge.keeper.pid, signal.SIGKILL)
        await until(lambda: sample(edge, "galerne_tls_edge_restarts_total") >= 1)
        await until(lambda: sample(edge, "galerne_tls_edge_up") == 0)
        log.rmdir()
        await until_status(edge, certificates.context())


async def test_an_edge_that_is_killed_comes_back_with_the_newest_certificate_and_ends_with_us(
    certificates, tmp_path
):
    files = certificates.edge_files()
    async with edge_before(make(), files, tmp_path) as edge:
        certificates.issue("server")
        await until(lambda: CERT_TAKEN(edge) == 1)
        first, pid = await serial(edge, certificates), edge.keeper.pid
        os.kill(pid, signal.SIGKILL)
        await until(lambda: sample(edge, "galerne_tls_edge_restarts_total") == 1)
        await until_status(edge, certificates.context())
        assert edge.keeper.pid != pid
        assert await serial(edge, certificates) == first
        last = psutil.Process(edge.keeper.pid)
    assert not last.is_running()
