"""Sliced experts: all shards read alike, every token goes everywhere; for the simulator alone."""

import json
import random
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.control.scaling_plan import wish_of
from cluster.planning.candidate import describe, short
from cluster.planning.enumerate import candidates, sliced
from cluster.planning.exchange import round_trip
from cluster.planning.load import Demand, Objectives
from cluster.planning.planner import Planner
from cluster.planning.predict import predict
from cluster.planning.spread import sliced_spread, spread
from cluster.simulator.site import Site
from cluster.simulator.workload import Lengths, poisson
from helpers.calibrations import save_embedded
from helpers.planning import FAR, SHAPE, create_calibration, create_cluster, create_load

SLICED = replace(FAR, is_sliced=True)


def drawn(tokens, shards, copies, draws=300):
    """Mean bytes in whole experts, of all shards and of the fullest one, by drawing experts."""
    chance, per_copy = random.Random(3), shards // copies
    total = fullest = 0.0
    for _ in range(draws):
        read = [0.0] * shards
        for copy in range(copies):
            own = range(copy, tokens, copies)
            pairs = {
                e
                for _ in own
                for e in chance.sample(range(SHAPE.num_experts), SHAPE.num_experts_per_tok)
            }
            for shard in range(copy * per_copy, (copy + 1) * per_copy):
                read[shard] = len(pairs) / per_copy
        total += sum(read) / draws
        fullest += max(read) / draws
    return total, fullest


@pytest.mark.parametrize(("tokens", "shards", "copies"), [(1, 4, 1), (16, 8, 1), (32, 8, 2)])
def test_slices_are_read_as_drawing_experts_gives(tokens, shards, copies):
    found = sliced_spread(SHAPE, shards, copies, tokens)
    total, fullest = drawn(tokens, shards, copies)
    assert found.touched == pytest.approx(total, rel=0.03)
    assert found.fullest == pytest.approx(fullest, rel=0.05)
    assert found.fullest * shards == pytest.approx(found.touched)


@pytest.mark.parametrize("tokens", [1, 8, 64])
def test_no_shard_reads_more_than_its_even_share_and_every_token_goes_to_every_shard(tokens):
    whole, slices = (of(SHAPE, 8, 1, tokens) for of in (spread, sliced_spread))
    assert slices.touched == pytest.approx(whole.touched)
    assert slices.fullest <= whole.fullest
    assert slices.num_messages == 8
    assert slices.sent_tokens == 8 * tokens >= whole.sent_tokens
    assert slices.answers == 2 * slices.sent_tokens, "partial sums are float32"


def test_slices_answer_a_lone_token_sooner_and_fill_a_slow_wire_earlier():
    calibration = create_calibration()
    whole, slices = (round_trip(SHAPE, calibration, c, 1) for c in (FAR, SLICED))
    assert slices.service_s < whole.service_s
    whole, slices = (round_trip(SHAPE, calibration, c, 64) for c in (FAR, SLICED))
    assert slices.wire_s > 1.5 * whole.wire_s


def test_slices_take_the_memory_that_whole_experts_take():
    load = create_load(0.0)
    whole, slices = (predict(SHAPE, create_calibration(), c, load) for c in (FAR, SLICED))
    assert slices.shard_bytes == whole.shard_bytes


@pytest.mark.parametrize("nodes", [1, 4, 100])
def test_the_live_planner_never_offers_them_and_no_wish_asks_for_them(nodes):
    planner = Planner(shape=SHAPE, calibration=create_calibration())
    cluster = create_cluster(nodes)
    for rate in (0.0, 5.0, 500.0):
        ranked = planner.rank(cluster, Demand(create_load(rate)))
        assert not any(judged.candidate.is_sliced for judged in ranked)
    listed = list(sliced(candidates(SHAPE, cluster, Objectives())))
    assert listed
    for candidate in listed:
        with pytest.raises(ValueError, match="no cluster is switched"):
            wish_of(candidate)


def test_names_say_that_experts_are_sliced():
    assert describe(SLICED) != describe(FAR)
    assert "8 slices" in describe(SLICED)
    assert "8/×1" in short(SLICED)


def test_the_simulator_compares_them_beside_auto_which_never_chooses_them():
    site = Site(
        shape=SHAPE,
        calibration=create_calibration(),
        cluster=create_cluster(4),
        objectives=Objectives(),
        has_sliced=True,
        node_s=0.0,
        change_s=1.0,
    )
    arrivals = list(poisson(6.0, Lengths(prompt_mean=64, output_mean=32), 60, seed=1))
    found = site.compare(arrivals, 2)
    kinds = [candidate.is_sliced for candidate, _ in found.static]
    assert kinds[:2] == [False, False]
    assert any(kinds)
    assert not found.best[0].is_sliced
    assert all(result.num_unserved == 0 for _, result in found.static)
    assert not any(c.candidate.is_sliced for c in found.auto.commits)


def test_the_command_compares_them_when_asked_to(tmp_path):
    flags = save_embedded(tmp_path / "calibration.json")
    command = ["simulate", *flags, "--minutes", "1", "--nodes", "3", "--prompt", "32"]
    command += ["--output", "8", "--rate", "2", "--json"]
    names = []
    for more in ([], ["--sliced"]):
        said = CliRunner().invoke(app, [*command, *more], catch_exceptions=False)
        names.append([static["name"] for static in json.loads(said.stdout)["static"]])
    assert not any("/×" in name for name in names[0])
    assert any("/×" in name for name in names[1])
