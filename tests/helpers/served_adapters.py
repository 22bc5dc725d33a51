"""A running server whose adapter is loaded, kept through kills, and unloaded; real processes."""

import os
import signal

import grpc
import pytest

from helpers.asked import generate
from helpers.serve_process import part, run_cli
from helpers.waiting import wait_until


def assert_adapter_outlives_kills(server, stub, client):
    """By the command line, gRPC and the openai client; the server has an adapter ``sql``."""
    plain = generate(20)
    adapted = generate(20)
    adapted.model = "sql"
    loaded = run_cli("adapter", "load", "sql", "--target", server.grpc)
    assert loaded.returncode == 0, loaded.stderr
    assert "loaded sql" in loaded.stdout
    assert [model.id for model in client.models.list()] == [server.model, "sql"]
    want = stub.GenerateOnce(adapted, timeout=60).choices[0].token_ids
    assert want != stub.GenerateOnce(plain, timeout=60).choices[0].token_ids

    victims = [part(stub, name) for name in ("gateway-0", "shard-1")]
    for victim in victims:
        os.kill(victim.pid, signal.SIGKILL)
    for victim in victims:
        wait_until(lambda v=victim: part(stub, v.id).pid not in (0, v.pid), 90)
    wait_until(lambda: part(stub, "gateway-0").is_live, 60)
    wait_until(lambda: "sql" in {model.id for model in client.models.list()})
    assert stub.GenerateOnce(adapted, timeout=100).choices[0].token_ids == want

    for path in ("../sql", "/etc"):
        refused = run_cli("adapter", "load", "other", path, "--target", server.grpc)
        assert (refused.returncode, "lora_path" in refused.stderr) == (1, True)
    assert run_cli("adapter", "unload", "sql", "--target", server.grpc).returncode == 0
    assert "none is loaded" in run_cli("adapter", "list", "--target", server.grpc).stdout
    with pytest.raises(grpc.RpcError) as refused:
        stub.GenerateOnce(adapted, timeout=20)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
