"""Ports, variables, directories and contexts of the ingress, without Ray."""

import asyncio
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from cluster.ingress.environment import choose_ports, haproxy_environment, proxy_environment
from cluster.ingress.existing import SERVICERS, check_usable, parse_details
from cluster.ingress.haproxy import find_haproxy, write_wrapper
from cluster.ingress.serve_context import ServeContext, refusing
from cluster.ingress.settings import IngressSettings
from cluster.ports import check_port, free_ports, free_range, is_loopback
from cluster.run_directory import MAX_PATH_CHARS, RunDirectory
from cluster.runtime import start_local_ray
from cluster.shutdown import Shutdown
from galerne.clock import VirtualClock
from galerne.errors import ConfigError, InvalidRequestError, OverloadedError
from router.api.access import Access
from router.api.audit import AuditLog
from router.api.health import HealthServicer
from router.api.keys import ApiKeys

SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
NOT_SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)


@pytest.fixture
def run():
    with RunDirectory() as directory:
        yield directory


@pytest.fixture
def taken_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        yield listener.getsockname()[1]


def test_run_directory_is_private_short_and_gone_at_the_end():
    with RunDirectory() as run:
        assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
        assert stat.S_IMODE(run.token_file.stat().st_mode) == 0o600
        assert len(run.token_file.read_text()) == 64
        assert len(str(run.path)) <= MAX_PATH_CHARS
    assert not run.path.exists()


def test_run_directory_is_locked_so_that_nothing_in_it_ages_away():
    """systemd-tmpfiles takes from /tmp what nobody has read for ten days, unless it is locked."""
    with RunDirectory() as run:
        descriptor = os.open(run.path, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)


def test_run_directory_too_deep_for_sockets_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError, match="run_directory"):
        RunDirectory(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["http_port", "grpc_port"])
def test_taken_port_is_refused_by_name_before_anything_starts(key, taken_port):
    ports = {"http_port": 0, "grpc_port": 0} | {key: taken_port}
    with pytest.raises(ConfigError, match=f"{key}={taken_port}"):
        choose_ports("127.0.0.1", **ports)


def test_address_of_another_machine_cannot_be_bound():
    with pytest.raises(ConfigError, match="http_port=8000"):
        check_port("http_port", "192.0.2.1", 8000)


def test_chosen_ports_are_all_different_and_below_outgoing_connections():
    ports = choose_ports("127.0.0.1", 0, 0)
    numbers = [*(ports.http, ports.grpc), ports.fallback_http, ports.fallback_grpc]
    numbers += [ports.haproxy_metrics, ports.haproxy_stats]
    numbers += [*ports.replica_http, *ports.replica_grpc]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) < 61000


def test_free_ports_can_be_bound_and_avoid_taken_ones():
    for port in free_ports(3):
        check_port("port", "127.0.0.1", port)
    assert not set(free_range(5, taken=list(range(16384, 20000)))) & set(range(16384, 20000))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("example.org", False),
    ],
)
def test_loopback_addresses_are_known(host, expected):
    assert is_loopback(host) is expected


def haproxy_variables(run):
    return haproxy_environment(
        choose_ports("127.0.0.1", 0, 0),
        haproxy_dir=run.haproxy_dir,
        binary=Path("/bin/true"),
        max_body_bytes=1000,
    )


def test_files_of_haproxy_lie_in_the_private_directory_with_short_socket_paths(run):
    variables = haproxy_variables(run)
    names = ("CONFIG_FILE_LOC", "SOCKET_PATH", "SERVER_STATE_FILE", "METRICS_SOCKET_PATH")
    for name in names:
        path = Path(variables[f"RAY_SERVE_HAPROXY_{name}"])
        assert path.parent == run.haproxy_dir
        assert len(str(path)) + 1 + 56 <= 97 + 1  # a node id in between
    assert variables["RAY_SERVE_HAPROXY_SERVER_STATE_BASE"] == str(run.haproxy_dir)


def test_serves_own_proxy_needs_both_switches_off():
    variables = proxy_environment(max_body_bytes=1000, is_loopback=False)
    assert variables["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    assert variables["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "0"


def test_a_proxy_stays_on_loopback_unless_it_is_the_public_one(run):
    hook = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
    assert haproxy_variables(run)[hook] == "cluster.ingress.loopback.install_in_proxy"
    assert hook not in proxy_environment(max_body_bytes=1000, is_loopback=False)


@pytest.mark.parametrize(
    ("host", "http", "grpc"),
    [
        ("127.0.0.1", ["bind 127.0.0.1:8000"], ["bind 127.0.0.1:9000 proto h2"]),
        ("0.0.0.0", ["bind 0.0.0.0:8000"], ["bind 0.0.0.0:9000 proto h2"]),
        (
            "10.0.0.1",
            ["bind 127.0.0.1:8000", "bind 10.0.0.1:8000"],
            ["bind 127.0.0.1:9000 proto h2", "bind 10.0.0.1:9000 proto h2"],
        ),
        ("::", ["bind [::]:8000"], ["bind [::]:9000 proto h2"]),
    ],
)
def test_wrapper_opens_the_public_listeners_only_and_runs_haproxy(run, host, http, grpc):
    config = run.path / "haproxy.cfg"
    config.write_text(
        "defaults\n    mode http\nfrontend prometheus\n    bind :9101\n"
        "frontend http\n    bind 127.0.0.1:8000\n"
        "listen stats\n  bind *:8404\nfrontend grpc\n    bind 127.0.0.1:9000 proto h2\n"
    )
    ports = replace(
        choose_ports("127.0.0.1", 0, 0), http=8000, grpc=9000, haproxy_metrics=9101,
        haproxy_stats=8404,
    )  # fmt: skip
    wrapper = write_wrapper(run, Path("/bin/echo"), host, ports)
    said = subprocess.run(
        [wrapper, "-db", "-f", config, "-W"], capture_output=True, text=True, check=True
    )
    binds = [line.strip() for line in config.read_text().splitlines() if "bind" in line]
    assert said.stdout.split() == ["-db", "-f", str(config), "-W"]
    assert binds == ["bind 127.0.0.1:9101", *http, "bind 127.0.0.1:8404", *grpc]
    assert config.read_text().startswith("defaults\n    timeout http-request 15s\n    mode http\n")


@pytest.mark.parametrize(
    ("binary", "problem"), [("/no/haproxy", "No such file"), ("/bin/false", "failed")]
)
def test_unusable_haproxy_is_told_with_its_reason(monkeypatch, binary, problem):
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", binary)
    found = find_haproxy()
    assert found.binary is None
    assert problem in found.problem


def running_serve(**changes):
    details = {
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "grpc_options": {"port": 9000, "grpc_servicer_functions": list(SERVICERS)},
        "applications": {"other": {"route_prefix": "/other"}},
    }
    return replace(parse_details(details, is_haproxy=True), **changes)


def test_running_serve_with_our_services_and_a_free_route_is_usable():
    serve = running_serve()
    check_usable(serve, "galerne")
    assert (serve.host, serve.http_port, serve.grpc_port) == ("127.0.0.1", 8000, 9000)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"servicers": SERVICERS[:1]}, "add_HealthServicer_to_server"),
        ({"route_by_app": {"other": "/"}}, "other has the route /"),
        ({"route_by_app": {"galerne": None}}, "app_name=galerne"),
    ],
)
def test_running_serve_that_cannot_carry_us_is_refused(changes, problem):
    with pytest.raises(ConfigError, match=problem):
        check_usable(running_serve(**changes), "galerne")


def test_secrets_are_not_in_the_settings_repr():
    settings = IngressSettings(
        app_name="a", controller_name="c", namespace="n", cluster_token="hush"
    )
    assert "hush" not in repr(settings)


def test_ray_that_was_imported_too_early_is_refused(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", sys)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "elsewhere")
    with pytest.raises(RuntimeError, match="RAY_AUTH_TOKEN_PATH"):
        start_local_ray(run, num_cpus=1, namespace="n")


class FakeServeContext:
    """What Serve's context keeps of a call."""

    def __init__(self, *metadata):
        self.metadata = list(metadata)
        self.code = self.details = self.trailing = None

    def invocation_metadata(self):
        return self.metadata

    def set_code(self, code):
        self.code = code

    def set_details(self, details):
        self.details = details

    def set_trailing_metadata(self, metadata):
        self.trailing = metadata


@pytest.mark.parametrize(
    ("error", "code", "details"),
    [
        (InvalidRequestError("top_p", "must"), grpc.StatusCode.INVALID_ARGUMENT, "top_p: must"),
        (OverloadedError("queue", 3, 2.0), grpc.StatusCode.RESOURCE_EXHAUSTED, "retry in 2 s"),
        (RuntimeError("host and stack"), grpc.StatusCode.INTERNAL, "internal error"),
    ],
)
async def test_errors_become_statuses_of_serves_context(error, code, details):
    context = FakeServeContext()
    with pytest.raises(grpc.aio.AbortError):
        async with refusing(ServeContext(context), lambda _metadata: None):
            raise error
    assert context.code is code
    assert details in context.details
    assert "host and stack" not in context.details


async def test_call_without_a_key_is_refused_before_it_starts():
    context = FakeServeContext(("authorization", "Bearer wrong"))
    access = Access(ApiKeys(["right"]), AuditLog(), VirtualClock())
    with pytest.raises(grpc.aio.AbortError):
        async with refusing(ServeContext(context), partial(access.enter_rpc, "Chat")):
            pytest.fail("was let in")
    assert context.code is grpc.StatusCode.UNAUTHENTICATED


async def test_what_a_servicer_writes_is_streamed_until_it_is_finished_from_outside():
    async def ready():
        return None

    context = ServeContext(FakeServeContext())
    health = HealthServicer(ready, poll_s=0.01)
    request = health_pb2.HealthCheckRequest()
    responses = context.written_by(health.Watch(request, context.for_servicer))
    assert await anext(responses) == SERVING
    context.finish(NOT_SERVING)
    assert [response async for response in responses] == [NOT_SERVING]


async def test_last_message_is_not_repeated():
    context = ServeContext(FakeServeContext())
    responses = context.written_by(asyncio.sleep(30))
    await context.write(NOT_SERVING)
    context.finish(NOT_SERVING)
    assert [response async for response in responses] == [NOT_SERVING]


async def test_error_of_a_writing_servicer_is_the_error_of_its_stream():
    async def fail():
        raise InvalidRequestError("service", "unknown")

    with pytest.raises(InvalidRequestError):
        await anext(ServeContext(FakeServeContext()).written_by(fail()))


async def test_stream_that_is_closed_ends_its_servicer():
    ended = asyncio.Event()

    async def run_on():
        try:
            await context.write(SERVING)
            await asyncio.sleep(30)
        finally:
            ended.set()

    context = ServeContext(FakeServeContext())
    responses = context.written_by(run_on())
    await anext(responses)
    await responses.aclose()
    assert ended.is_set()


@pytest.fixture
def shutdown():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    made = Shutdown()
    made.install()
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_interrupts_work_and_is_remembered(shutdown, number):
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    assert shutdown.wait(0)


def test_signal_is_deferred_to_the_end_of_the_block_even_if_ray_took_the_handler(shutdown):
    done = []
    with pytest.raises(KeyboardInterrupt), shutdown.deferred():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as ray.init does
        done.append(True)
    assert done
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


def test_wait_returns_at_a_signal_and_at_a_request_without_raising(shutdown):
    assert not shutdown.wait(0.01)
    shutdown.request()
    assert shutdown.wait()


def test_signals_are_ignored_during_the_clean_up(shutdown):
    shutdown.ignore()
    with suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    assert not shutdown.is_requested
