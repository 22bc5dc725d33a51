"""``galerne plan``: what ``galerne serve`` would start with the same flags."""

import inspect

import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.cli.plan import plan
from cluster.cli.serve import serve
from galerne.errors import ConfigError


def said(*arguments):
    answer = CliRunner().invoke(app, ["plan", *arguments], catch_exceptions=False)
    assert answer.exit_code == 0
    return {line[:12].strip(): line[14:] for line in answer.stdout.splitlines()}


def test_plan_takes_every_flag_of_serve():
    assert list(inspect.signature(plan).parameters) == list(inspect.signature(serve).parameters)


def test_local_experts_are_lost_with_their_gateways_only():
    told = said("--gateways", "2")
    assert told["mode"].startswith("latency: at most 8 sequences and 256 tokens")
    assert told["shards"] == "none: gateways hold the experts"
    assert told["availability"] == "every gateway holds all experts; 1 of 2 may be lost"


def test_copies_on_shards_survive_one_and_memory_is_told():
    told = said("--mode", "throughput", "--shards", "4", "--replicas", "2")
    assert told["shards"] == "4 by shm, 2 copies of an expert"
    assert told["availability"].startswith("any one shard lost: 0 experts")
    assert "MiB in all processes" in told["weights"]
    assert "per gateway" in told["cache"]


def test_settings_of_a_file_count_and_flags_win_over_it(tmp_path):
    file = tmp_path / "serve.yaml"
    file.write_text("mode: throughput\nshards: 8\n")
    assert said("--config", str(file), "--shards", "2")["shards"].startswith("2 by shm")


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (("--replicas", "3", "--shards", "2"), "replicas"),
        (("--kv-memory", "900GiB"), "kv_memory"),
        (("--transport", "local", "--shards", "2"), "shards"),
    ],
)
def test_what_serve_would_refuse_is_refused_and_named(flags, field):
    with pytest.raises(ConfigError, match=f"^{field}="):
        said(*flags)
