"""``galerne simulate`` over a calibration with made-up numbers: the real planner and autoscaler."""

import json

import pytest
from typer.testing import CliRunner

from cluster.cli import client
from cluster.cli.app import app
from cluster.simulator.workload import Bursts
from galerne.errors import ConfigError
from helpers.calibrations import save_embedded
from helpers.gateways import request
from helpers.recorded import record, sampled
from router.gateway.record_events import Added

BUSY = ("--rate", "24", "--minutes", "2", "--nodes", "2", "--ttft-p95", "1")
SHORT = ("--minutes", "3", "--prompt", "64", "--output", "16")


@pytest.fixture
def simulate(tmp_path):
    flags = save_embedded(tmp_path / "calibration.json")

    def simulate(*arguments):
        command = ["simulate", *flags, *arguments]
        said = CliRunner().invoke(app, command, catch_exceptions=False)
        assert said.exit_code == 0
        return said.stdout

    return simulate


def recorded(tmp_path, *lines):
    file = tmp_path / "arrivals.jsonl"
    file.write_text("\n".join(lines))
    return str(file)


@pytest.mark.parametrize("workload", ["poisson", "burst", "day"])
def test_every_workload_is_answered_by_auto_and_by_fixed_topologies(simulate, workload):
    told = json.loads(simulate("--workload", workload, "--rate", "4", "--json", *SHORT))
    assert len(told["static"]) == 4
    arrivals = told["auto"]["arrivals"]
    assert arrivals > 100
    for result in (told["auto"], *told["static"]):
        assert (result["arrivals"], result["answered"], result["unserved"]) == (
            arrivals,
            arrivals,
            0,
        )
    assert told["regret"] > -1


def test_more_load_than_rest_is_meant_for_makes_it_decide_and_say_why(simulate, tmp_path):
    picture = tmp_path / "run.svg"
    said = simulate(*BUSY, "--plot", str(picture))
    assert "from → to" in said
    assert "→ throughput · grpc" in said
    assert "requests wait" in said, "why"
    assert "regret" in said
    assert "a machine" in said, "whose calibration it is"
    assert picture.read_text().startswith("<?xml")


def test_its_tables_fit_120_columns(simulate, monkeypatch):
    monkeypatch.setattr(client, "_WIDTH", 120)
    said = simulate(*BUSY)
    assert max(map(len, said.splitlines())) <= 120
    assert "…" not in said


def test_recorded_arrivals_are_replayed_and_the_same_seed_gives_the_same(simulate, tmp_path):
    file = recorded(tmp_path, *(f"[{100 + i}, 64, {8 + i % 3}]" for i in range(50)))
    told = json.loads(simulate("--workload", file, "--json"))
    assert told["auto"]["answered"] == 50
    first, again, other = (
        simulate("--rate", "2", "--seed", seed, "--json", *SHORT) for seed in ("3", "3", "4")
    )
    assert first == again != other


def test_what_serve_recorded_is_replayed(simulate, tmp_path):
    added = [(float(i), Added(request(f"r{i}", range(64)))) for i in range(20)]
    answered = [(i + 0.1, sampled(f"r{i}", 0, num=8)) for i in range(20)]
    directory = record(tmp_path / "records", *sorted(added + answered, key=lambda timed: timed[0]))
    told = json.loads(simulate("--workload", str(directory), "--json"))
    assert (told["auto"]["arrivals"], told["auto"]["answered"]) == (20, 20)


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (["[0, 1, 1]", "[1, 2]"], "workload line 2"),
        (["[0, 0, 1]"], "workload line 1"),
        (["nonsense"], "workload line 1"),
        (["[0, 2000000, 1]"], "workload=1 requests"),
    ],
)
def test_a_line_that_is_no_arrival_or_fits_in_no_cache_is_named(simulate, tmp_path, lines, names):
    with pytest.raises(ConfigError, match=names):
        simulate("--workload", recorded(tmp_path, *lines))


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (("--workload", "storm"), "workload=storm: is poisson, burst, day, a directory"),
        (("--plot", "run.jpg"), "plot=run.jpg: must end in"),
        (("--inter-token-p95", "1e-9"), "inter-token p95"),
    ],
)
def test_what_cannot_be_simulated_is_refused_and_named(simulate, flags, names):
    with pytest.raises(ConfigError, match=names):
        simulate(*flags, *SHORT)


def test_bursts_have_the_mean_that_was_asked_for():
    assert Bursts.of_mean(6.0).mean_requests_per_s == pytest.approx(6.0)
