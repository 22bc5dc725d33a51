"""Starts of the CLI that need no running server: refusals by name, and the demo."""

import pytest

from helpers.serve_process import run_cli

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--model", "/nowhere"), "/nowhere"),
        (("--shards", "4", "--replicas", "9"), "replicas"),
        (("--kv-memory", "1M", "--max-model-len", "1000000"), "kv_memory"),
        (("--mode", "quick"), "mode"),
    ],
)
def test_a_server_that_cannot_start_says_why_and_exits_non_zero(flags, said):
    done = run_cli("serve", "--http-port", "0", "--grpc-port", "0", *flags, timeout=120)
    assert done.returncode == 1
    assert said in done.stderr


def test_the_demo_answers_loses_a_shard_and_answers_the_same():
    done = run_cli("demo", timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tokens are identical" in " ".join(done.stdout.split())
    assert "get_weather(" in done.stdout
