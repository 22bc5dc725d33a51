"""``galerne probe`` against real servers: exit codes, and the line that says why."""

import asyncio
import os
import socket
import subprocess
import sys

import pytest

from cluster.probe.asking import HealthQuestion, ask_health
from cluster.probe.command import main
from helpers.api_servers import grpc_served, http_served, make_frontend
from helpers.fake_gateway import FakeGateway
from helpers.shard_process import ShardProcess

PATIENT = ("--timeout-s", "60")


@pytest.fixture
def probe(capsys):
    """Exit code and line of a probe, beside the test's event loop."""

    async def run(*arguments):
        code = await asyncio.to_thread(main, arguments)
        return code, capsys.readouterr().out

    return run


async def test_live_and_ready_by_http_differ_where_no_gateway_serves(probe):
    gateway = FakeGateway()
    async with http_served(make_frontend(gateway)) as url:
        at = ("--http", url, *PATIENT)
        assert (await probe("live", *at))[0] == 0
        assert (await probe("ready", *at)) == (0, f"ready: {url} answers\n")
        gateway.unready = "expert 7 of layer 2 has no shard"
        assert (await probe("live", *at))[0] == 0
        assert (await probe("ready", *at)) == (1, f"ready: {url}: {gateway.unready}\n")


async def test_live_and_ready_by_grpc_differ_where_no_gateway_serves(probe):
    gateway = FakeGateway()
    async with grpc_served(make_frontend(gateway)) as target:
        at = ("--grpc", target, *PATIENT)
        assert (await probe("ready", *at)) == (0, f"ready: {target} SERVING\n")
        gateway.unready = "no gateway answers"
        assert (await probe("live", *at))[0] == 0
        assert (await probe("ready", *at)) == (1, f"ready: {target}: NOT_SERVING\n")


async def test_both_are_asked_where_both_are_named(probe):
    async with http_served(make_frontend(FakeGateway())) as url:
        code, line = await probe("ready", "--http", url, "--grpc", "127.0.0.1:1", *PATIENT)
    assert code == 1
    assert "127.0.0.1:1: UNAVAILABLE" in line
    assert line.count("\n") == 1


async def test_a_server_that_takes_the_call_and_never_answers_is_given_up(probe):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        at = f"127.0.0.1:{listener.getsockname()[1]}"
        assert (await probe("live", "--http", at, "--timeout-s", "0.2"))[0] == 1
        assert (await probe("live", "--grpc", at, "--timeout-s", "0.2"))[0] == 1


def test_a_part_answers_for_itself_and_not_while_it_is_stopped():
    shard = ShardProcess(0, 1)
    try:
        services = ("", "galerne.v1.ExpertService", "galerne.v1.Other")
        questions = [HealthQuestion(shard.address, service=service) for service in services]
        alive, ready, unknown = ask_health(questions, 60.0)
        assert (alive, ready) == ("SERVING", "SERVING")
        assert unknown.startswith("NOT_FOUND")
        shard.pause()
        [silent] = ask_health(questions[:1], 0.3)
        assert silent not in ("SERVING", "NOT_SERVING")
        shard.resume()
        assert ask_health(questions[:1], 60.0) == ["SERVING"]
    finally:
        shard.close()


def test_a_session_of_which_nothing_runs_here_is_a_node_that_is_down(tmp_path, capsys):
    assert main(["node", "--session-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().out == "node: no raylet runs here\n"


def test_the_command_starts_without_ray_torch_and_typer():
    code = (
        "import sys; sys.argv = ['galerne', 'probe', 'live', '--http', '127.0.0.1:1']\n"
        "from cluster.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'ray', 'torch', 'typer', 'grpc', 'pydantic', 'rich'} & set(sys.modules)\n"
        "print(code, sorted(heavy))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "1 []", done.stdout + done.stderr


def test_a_wrong_argument_is_named(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["ready", "--timeout-s", "-1"])
    assert ended.value.code == 2
    assert "timeout-s" in capsys.readouterr().err


@pytest.mark.parametrize("half", ["CERT", "KEY"])
def test_half_of_an_identity_is_told_and_ends_no_process(half, monkeypatch, capsys):
    """gRPC would abort, with nothing but a stack to say why."""
    monkeypatch.setenv(f"GALERNE_TLS_{half}", __file__)
    assert main(["ready", "--grpc", "grpcs://127.0.0.1:9", "--timeout-s", "1"]) == 1
    other = {"CERT": "KEY", "KEY": "CERT"}[half]
    assert f"GALERNE_TLS_{other} must be set" in capsys.readouterr().out
