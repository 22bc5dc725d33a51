"""``galerne what-if`` over a calibration with made-up numbers."""

import json

import pytest
from typer.testing import CliRunner

from cluster.cli import client
from cluster.cli.app import app
from galerne.errors import ConfigError
from helpers.calibrations import save_embedded


@pytest.fixture
def ask(tmp_path):
    flags = save_embedded(tmp_path / "calibration.json")

    def ask(*arguments, catch=True):
        return CliRunner().invoke(app, ["what-if", *flags, *arguments], catch_exceptions=catch)

    return ask


def test_the_choice_its_rivals_and_the_load_at_which_it_ends_are_told(ask):
    said = ask("--rate", "2", "--prompt", "64", "--output", "32")
    assert said.exit_code == 0
    assert "with local experts" in said.stdout.splitlines()[0]
    assert "req/s; now 2" in said.stdout
    assert "chosen" in said.stdout
    assert "names: mode · link" in said.stdout


def test_a_terminal_of_120_columns_shows_names_and_numbers_whole(ask, monkeypatch):
    monkeypatch.setattr(client, "_WIDTH", 120)
    said = ask("--rate", "2", "--nodes", "16")
    rows = [line for line in said.stdout.splitlines() if "×" in line and "names:" not in line]
    assert len(rows) == 8
    assert all(len(line) <= 120 and "…" not in line for line in said.stdout.splitlines())


def test_json_holds_every_candidate_and_no_infinity(ask):
    said = ask("--rate", "1e6", "--json")
    assert said.exit_code == 2, "nothing carries that"
    told = json.loads(said.stdout)
    assert told["chosen"] is None
    assert len(told["candidates"]) > 5
    assert all(c["prediction"]["completion_s"] is None for c in told["candidates"])
    assert all("carries" in c["reason"] for c in told["candidates"])
    fields = [{broken["field"] for broken in c["broken"]} for c in told["candidates"]]
    assert all("requests_per_s" in each for each in fields)


def test_an_objective_is_kept_or_named(ask):
    told = json.loads(ask("--rate", "1", "--inter-token-p95", "1e-6", "--json").stdout)
    assert told["chosen"] is None
    assert "inter-token p95" in told["candidates"][0]["reason"]
    assert told["candidates"][0]["broken"][0]["field"] == "inter_token_p95_s"


def test_more_machines_bring_candidates_of_their_own(ask):
    told = json.loads(ask("--rate", "1", "--nodes", "2", "--json").stdout)
    assert max(c["candidate"]["shard_nodes"] for c in told["candidates"]) == 2


def test_without_a_calibration_the_command_that_makes_one_is_named(tmp_path):
    command = ["what-if", "--rate", "1", "--calibration", str(tmp_path / "none.json")]
    with pytest.raises(ConfigError, match="run galerne doctor first"):
        CliRunner().invoke(app, command, catch_exceptions=False)
