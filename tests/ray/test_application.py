"""An application of a Serve that is not ours: deployed, asked, its owner killed, deleted."""

import os
import re
import signal
import stat
import sys
import threading
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from cluster.ports import free_ports
from cluster.probe.command import main as probe
from galerne.v1 import inference_pb2_grpc
from helpers.application_server import ApplicationServer
from helpers.asked import generate, tokens_of
from helpers.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(240)]

ARGS = {"shards": 2, "max_model_len": 2048, "drain_s": 2}
PART = re.compile(r"galerne-[0-9a-f]{8}-(\w+(?:-\d+)?)")
KINDS = {
    "controller": "Controller",
    "gateway-0": "Gateway",
    "shard-0": "ExpertShard",
    "shard-1": "ExpertShard",
}


@pytest.fixture(scope="module")
def cluster():
    running = ApplicationServer(dashboard_port=free_ports(1)[0])
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def app(cluster):
    cluster.ask("deploy", args=ARGS)
    cluster.wait_for("RUNNING")
    return cluster


@pytest.fixture
def stub(app):
    with grpc.insecure_channel(app.started["grpc"]) as channel:
        yield inference_pb2_grpc.InferenceServiceStub(channel)


def parts(cluster):
    """Class and pid by the last part of the name, of living actors of ours."""
    named = [(PART.fullmatch(name or ""), kind, pid) for kind, name, pid in actors(cluster)]
    return {match[1]: (kind, pid) for match, kind, pid in named if match}


def actors(cluster):
    return cluster.ask("actors")["actors"]


def owner(cluster):
    """Pid of Serve's replica that owns the parts, if one lives."""
    return next((pid for kind, _, pid in actors(cluster) if kind.endswith(":Parts")), None)


def test_a_wrong_argument_is_told_by_its_name_in_the_application_s_status(cluster):
    cluster.ask("deploy", args=ARGS | {"shard": 4})
    told = cluster.wait_for("DEPLOY_FAILED")
    assert "shard=4" in " ".join(told["messages"])


def test_both_ways_in_answer_and_ready_says_so(app, stub):
    http = f"http://{app.started['http']}"
    assert httpx.get(f"{http}/ready", timeout=20).status_code == 200
    body = {"prompt": "The Loire ends", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    over_http = httpx.post(f"{http}/v1/completions", json=body, timeout=60).json()
    over_grpc = stub.GenerateOnce(generate(8, temperature=0, repetition_penalty=1.0), timeout=60)
    assert over_http["choices"][0]["text"] == over_grpc.choices[0].text != ""


def test_ray_lists_the_actors_by_telling_names(app):
    assert {part: kind for part, (kind, _) in parts(app).items()} == KINDS
    frontends = [kind for kind, _, _ in actors(app) if kind.endswith(":Frontend")]
    assert frontends == ["ServeReplica:galerne:Frontend"]


def test_the_node_s_probe_finds_raylet_and_parts_and_names_the_one_that_hangs(app, capsys):
    node = ("node", "--session-dir", app.started["session"])
    assert probe(node) == 0
    assert capsys.readouterr().out == "node: 1 raylet(s), 3 part(s)\n"
    _, pid = parts(app)["shard-1"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert probe([*node, "--timeout-s", "0.5"]) == 1
    finally:
        os.kill(pid, signal.SIGCONT)
    assert f"shard-1 (pid {pid}): " in capsys.readouterr().out
    wait_until(lambda: probe(node) == 0, 20)


def test_ray_s_own_metrics_have_the_few_numbers(app):
    [file] = Path(app.started["session"]).glob("metrics_export_port_*")
    url = f"http://127.0.0.1:{int(file.read_text())}/metrics"

    def value(name):
        found = re.search(rf"^ray_galerne_{name}\{{.*\}} (\S+)$", httpx.get(url).text, re.MULTILINE)
        return None if found is None else float(found[1])

    wait_until(lambda: value("shards_up") == 2.0, 60)
    assert (value("gateways_up"), value("parts_wanted"), value("epoch")) == (1.0, 3.0, 1.0)


def accounts(app):
    """Directories in which frontends share their keys' accounts."""
    return list(Path(app.started["session"]).glob("galerne-accounts-*"))


def test_accounts_of_keys_lie_in_a_private_directory_of_the_session(app):
    [found] = accounts(app)
    assert stat.S_IMODE(found.lstat().st_mode) == 0o700


def test_a_killed_owner_costs_no_token_and_the_next_one_takes_over(app, stub):
    want = tokens_of(stub.Generate(generate(300), timeout=90))
    before, victim = parts(app), owner(app)
    got = []
    for event in stub.Generate(generate(300), timeout=90):
        if not got:
            os.kill(victim, signal.SIGKILL)
        got += tokens_of([event])
    assert got == want
    wait_until(lambda: owner(app) not in (None, victim), 60)
    app.wait_for("RUNNING")
    assert parts(app) == before


def test_placement_groups_of_a_deployment_go_with_it(app):
    assert app.ask("ask_nodes")["states"] == ["PENDING"]
    assert app.ask("let_nodes_go")["states"] in ([], ["REMOVED"])


def test_other_arguments_end_the_deployment_before_the_next_one_begins(app, stub):
    before = parts(app)
    app.ask("deploy", args=ARGS | {"max_num_seqs": 4})
    wait_until(lambda: not set(before.values()) & set(parts(app).values()), 60)
    app.wait_for("RUNNING")
    assert set(parts(app)) == set(KINDS)
    assert len(tokens_of(stub.Generate(generate(8), timeout=60))) == 8


def test_deleted_it_lets_a_stream_end_and_leaves_no_actor(app, stub):
    pids = [pid for _, pid in parts(app).values()]
    events = stub.Generate(generate(12), timeout=90)
    assert next(events).HasField("accepted")
    deleting = threading.Thread(target=app.ask, args=("delete",))
    deleting.start()
    assert len(tokens_of(events)) == 12
    deleting.join(60)
    assert not deleting.is_alive()
    wait_until(lambda: not parts(app), 30)
    assert app.ask("status")["status"] == "GONE"
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), 20)
    assert accounts(app) == []
    assert not [kind for kind, _, _ in actors(app) if "galerne" in kind]


def test_a_submitted_job_serves_until_it_is_stopped(cluster):
    cluster.ask("delete")  # whoever has the route keeps others out
    galerne = str(Path(sys.executable).parent / "galerne")
    shape = ("--shards", "2", "--max-model-len", "2048", "--drain-s", "2")
    serve = (galerne, "serve", "--address", "auto", *shape)
    cluster.ray("job", "submit", "--no-wait", "--submission-id", "galerne", "--", *serve)
    wait_until(lambda: "ready: " in cluster.ray("job", "logs", "galerne"), 90)
    assert set(parts(cluster)) == set(KINDS)
    assert "galerne-" in cluster.ray("list", "actors", "--filter", "state=ALIVE")
    with grpc.insecure_channel(cluster.started["grpc"]) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        assert len(tokens_of(stub.Generate(generate(8), timeout=60))) == 8
    cluster.ray("job", "stop", "galerne")
    wait_until(lambda: not parts(cluster), 60)
    told = cluster.ray("job", "status", "galerne")
    assert "stopped" in told.lower()
    assert not [kind for kind, _, _ in actors(cluster) if "galerne" in kind]
