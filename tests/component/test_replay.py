"""A recorded gateway runs again, and does the same; what was tampered with is found and named."""

import shutil
import time
from collections import Counter
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from galerne.errors import ConfigError, EpochRetiredError
from galerne.topology import LinkTransport
from helpers.cluster import Shards
from helpers.fixture_models import checkpoint, fixture_image, prompt, topology
from helpers.gateway_process import NAME
from helpers.gateways import Collector, request
from helpers.records import lines_of, only_record, recorded, submit, write_lines
from helpers.switchable import ShardBook, shape, start_gateway
from router.engine.recording import NullRecorder
from router.engine.request import ResumedChoice
from router.engine.sampling import sample_batch
from router.engine.scheduler_config import SchedulerConfig
from router.engine.speculation.settings import SpeculationSettings
from router.exchange.deadline import ExchangeConfig
from router.gateway.record_events import Planned
from router.gateway.record_file import find_records
from router.gateway.replay import Ending, replay
from router.gateway.settings import numerics_profile
from shards.kernels.formats import WeightFormat

LONG = tuple(range(20, 150))
SEEDED = {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "seed": 7}
PENALISED = {"presence_penalty": 0.7, "frequency_penalty": 0.3, "repetition_penalty": 1.2}
SHARDS = ("shard-0", "shard-1")
GUESSING = SpeculationSettings(speculative="ngram", num_draft_tokens=3)


def run_mixed_load(directory):
    """Every kind of sampling, prefix hits, an image, an abort, a preemption, a switch of limits."""
    with recorded(directory, speculation=GUESSING) as (engine, collector):
        submit(
            engine,
            request("greedy", LONG, max_tokens=20, cache_salt="a"),
            request("three", LONG[:50], n=3, max_tokens=12, **SEEDED),
            request("shaken", LONG[5:90], max_tokens=400, **SEEDED | PENALISED),
            request("logprobs", LONG[:40], logprobs=3, prompt_logprobs=1, max_tokens=6),
            request("image", prompt("image"), images=(fixture_image(),), max_tokens=5),
            request("left", LONG[:9], n=2, temperature=1.0, max_tokens=900),
        )
        collector.wait("shaken", tokens=4)
        engine.preempt("shaken").result(60)
        collector.wait("greedy")
        submit(engine, request("hit", LONG, max_tokens=9, cache_salt="a", **PENALISED))
        limits = {"max_num_seqs": 3, "max_batched_tokens": 24, "max_chunk_tokens": 16}
        engine.reconfigure(2, SchedulerConfig(max_model_len=1024, **limits)).result(60)
        submit(engine, request("late", LONG[30:], max_tokens=7, logit_bias={5: 4.0}))
        for name in ("hit", "late", "three", "logprobs", "image", "shaken"):
            collector.wait(name)
        collector.wait("left", choice=1, tokens=8)
        engine.abort("left", choice=1).result(60)
        engine.abort("left").result(60)
        return {key: collector.tokens(*key) for key in collector.deltas}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mixed")
    run_mixed_load(directory)
    return only_record(directory)


@pytest.fixture
def copy(mixed, tmp_path):
    """The record, to be tampered with."""
    shutil.copytree(mixed.path, tmp_path / mixed.path.name)
    return only_record(tmp_path)


def test_a_mixed_load_is_the_same_again_step_by_step_and_token_by_token(mixed):
    """Its guesses too: they are the record's."""
    plans = [line.event for line in mixed.lines() if isinstance(line.event, Planned)]
    assert any(entry.draft for plan in plans for entry in plan.entries)
    result = replay(mixed)
    assert result.difference is None
    assert result.ending is Ending.CLOSED
    assert result.is_good
    lines = lines_of(mixed)
    steps = [line for line in lines if line["event"] == "planned"]
    assert {line["event"] for line in lines} == {
        *("added", "aborted", "preempted", "epoch", "planned", "sampled", "closed")
    }
    assert any(entry[2] == 128 for step in steps for entry in step["entries"]), "a prefix hit"
    assert max(len(step["entries"]) for step in steps) > 3
    outcomes = [o for line in lines for o in line.get("outcomes", ())]
    assert any(logprobs for *_, logprobs in outcomes)
    assert result.num_tokens == sum(len(tokens) for _, _, _, tokens, _, _ in outcomes)
    counts = (result.num_requests, result.num_steps, result.num_epochs, result.num_failed_steps)
    assert counts == (8, len(steps), 1, 0)


def test_the_threads_of_the_model_change_nothing(mixed):
    assert replay(mixed, num_threads=2).is_good


def test_a_pool_that_is_too_small_preempts_the_same_ones_again(tmp_path):
    with recorded(tmp_path, num_blocks=20, max_model_len=256) as (engine, collector):
        submit(engine, *(request(f"r{i}", LONG[i : i + 60], max_tokens=90) for i in range(5)))
        for i in range(5):
            collector.wait(f"r{i}")
    record = only_record(tmp_path)
    plans = [line.event for line in record.lines() if isinstance(line.event, Planned)]
    assert any(plan.preempted for plan in plans)
    assert replay(record).is_good


def test_choices_that_another_gateway_began_go_on_the_same(tmp_path):
    asked = request("moved", LONG[:30], n=2, max_tokens=12, **SEEDED | PENALISED)
    resumed = (ResumedChoice((44, 45, 46)), ResumedChoice((47,), is_ended=True))
    with recorded(tmp_path) as (engine, collector):
        submit(engine, replace(asked, resumed=resumed))
        assert len(collector.tokens("moved")) == 9
    assert replay(only_record(tmp_path)).is_good


def test_a_topology_that_changes_under_a_run_changes_the_limits_at_the_same_step(tmp_path):
    book, collector = ShardBook(), Collector()
    gateway = start_gateway(shape(1), book, record=tmp_path)
    gateway.engine._on_deltas = collector
    try:
        submit(gateway.engine, request("early", LONG, n=2, max_tokens=300, **SEEDED))
        target = shape(2, LinkTransport.GRPC, SHARDS, max_num_seqs=3, max_batched_tokens=20)
        book.start(target)
        gateway.switch.prepare(target, 60.0)
        collector.wait("early", tokens=3)
        gateway.switch.commit(target.epoch)
        submit(gateway.engine, *(request(f"late{i}", LONG[i:50], max_tokens=9) for i in range(4)))
        for name in ("early", "late0", "late1", "late2", "late3"):
            collector.wait(name)
    finally:
        gateway.stop()
        book.close()
    record = only_record(tmp_path)
    (epoch,) = (line for line in lines_of(record) if line["event"] == "epoch")
    assert (epoch["epoch"], epoch["max_num_seqs"], epoch["max_batched_tokens"]) == (2, 3, 20)
    assert 0 < epoch["step"] < 300
    result = replay(record)
    assert result.is_good
    assert result.num_epochs == 1


# -- faults ----------------------------------------------------------------------------------


def run_with_a_kill(directory, *, give_up_after_s, is_restarted):
    """A shard without a replica is stopped while a step runs."""
    shape = topology(checkpoint(NAME).config, SHARDS)
    profile = numerics_profile("bf16", WeightFormat.BF16, WeightFormat.BF16)
    shards = Shards(shape, NAME, profile=profile)
    try:
        with recorded(
            directory,
            book=shards,
            topology=replace(shape, transport=LinkTransport.GRPC),
            exchange=ExchangeConfig(
                deadline_floor_s=0.05, deadline_cap_s=0.2, give_up_after_s=give_up_after_s
            ),
        ) as (engine, collector):
            submit(engine, request("long", LONG, max_tokens=200, **SEEDED))
            collector.wait("long", tokens=3)
            submit(engine, request("other", LONG[:20], max_tokens=200))
            collector.wait("other", tokens=1)
            shards.stop(SHARDS[1])
            time.sleep(0.2)
            if is_restarted:
                shards.start(SHARDS[1])
            collector.wait("long")
            collector.wait("other")
    finally:
        shards.close()


def test_a_run_that_lost_a_shard_for_a_while_is_the_same_with_experts_that_stay(tmp_path):
    run_with_a_kill(tmp_path, give_up_after_s=30.0, is_restarted=True)
    result = replay(only_record(tmp_path))
    assert result.is_good
    assert result.num_faults >= 1
    assert (result.num_tokens, result.num_failed_steps) == (400, 0)


def test_a_step_that_failed_for_want_of_experts_fails_again(tmp_path):
    run_with_a_kill(tmp_path, give_up_after_s=0.5, is_restarted=False)
    record = only_record(tmp_path)
    result = replay(record)
    assert result.is_good
    assert result.num_failed_steps == 1
    (failed,) = (line for line in lines_of(record) if line["event"] == "failed")
    assert "shard-1" in failed["reason"]
    assert not failed["has_logits"]
    faults = [line["part"] for line in lines_of(record) if line.get("kind") == "down"]
    assert faults == ["shard-1"]


def test_steps_that_were_dropped_are_dropped_again(tmp_path):
    with recorded(tmp_path) as (engine, collector):
        submit(engine, request("waits", LONG[:30], max_tokens=90, **SEEDED))
        collector.wait("waits", tokens=5)
        run_plan, left = engine._runner.run_plan, [EpochRetiredError(1)] * 3

        def retired(step, plan):
            if left:
                raise left.pop()
            return run_plan(step, plan)

        engine._runner.run_plan = retired
        assert len(collector.tokens("waits")) == 90
    result = replay(only_record(tmp_path))
    assert result.is_good
    assert (result.num_failed_steps, result.num_tokens) == (3, 90)


def test_a_step_that_failed_in_sampling_fails_there_again(tmp_path, monkeypatch):
    def failing(logits, rows, **others):
        if any(row.position == 40 for row in rows):
            raise RuntimeError("planted")
        return sample_batch(logits, rows, **others)

    monkeypatch.setattr("router.engine.stepper.sample_batch", failing)
    with recorded(tmp_path) as (engine, collector):
        submit(engine, request("fails", LONG[:30], max_tokens=20), request("too", LONG[:20]))
        assert len(collector.tokens("fails")) == 10
    result = replay(only_record(tmp_path))
    assert result.is_good
    assert result.num_failed_steps == 1
    (failed,) = (line for line in lines_of(only_record(tmp_path)) if line["event"] == "failed")
    assert failed["has_logits"]


# -- records that are not as they were -------------------------------------------------------


def tamper(record, is_it, change):
    """Change the first line that ``is_it``; its number."""
    lines = lines_of(record)
    number, fields = next((n, f) for n, f in enumerate(lines, start=1) if is_it(f))
    change(fields)
    write_lines(record, lines)
    return number


def test_a_token_that_was_tampered_with_is_named(copy):
    number = tamper(
        copy,
        lambda f: len(f.get("outcomes", ())) > 2,
        lambda f: f["outcomes"][1][3].__setitem__(0, 4095),
    )
    difference = replay(copy).difference
    assert (difference.line, difference.what) == (number, "result 1")
    assert difference.step == lines_of(copy)[number - 1]["step"]
    assert "token_ids=(4095,)" in difference.recorded
    assert "token_ids=(4095,)" not in difference.replayed


def test_a_log_probability_that_was_tampered_with_is_found(copy):
    tamper(
        copy,
        lambda f: any(o[5] for o in f.get("outcomes", ())),
        lambda f: next(o for o in f["outcomes"] if o[5]).__setitem__(5, "0" * 16),
    )
    assert "logprobs='0000000000000000'" in replay(copy).difference.recorded


def test_a_plan_entry_that_was_tampered_with_is_named(copy):
    number = tamper(
        copy,
        lambda f: f["event"] == "planned" and f["step"] == 4,
        lambda f: f["entries"][0].__setitem__(3, 77),
    )
    difference = replay(copy).difference
    assert (difference.line, difference.step, difference.what) == (number, 4, "plan entry 0")
    assert "num_tokens=77" in difference.recorded


def test_a_plan_entry_that_is_gone_is_named(copy):
    tamper(copy, lambda f: f["event"] == "planned", lambda f: f["entries"].pop())
    assert replay(copy).difference.recorded == "nothing"


@pytest.mark.parametrize("event", ["added", "aborted", "preempted", "epoch"])
def test_what_came_from_outside_is_missed_when_it_is_gone(copy, event):
    lines = lines_of(copy)
    lines.remove(next(line for line in lines if line["event"] == event))
    write_lines(copy, lines)
    assert replay(copy).difference is not None


def test_a_last_line_that_is_torn_is_left_out_and_the_rest_repeated(copy):
    path = copy.path / "events.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    torn = next(n for n, line in enumerate(whole) if b'"step":9,' in line and b"sampled" in line)
    path.write_bytes(b"".join(whole[:torn]) + whole[torn][:40])
    result = replay(copy)
    assert result.is_good
    assert (result.ending, result.num_steps) == (Ending.CUT_OFF, 10)


def test_a_line_in_the_middle_that_cannot_be_read_is_named(copy):
    lines = (copy.path / "events.jsonl").read_bytes().splitlines(keepends=True)
    lines[6] = lines[6][:30] + b"\n"
    (copy.path / "events.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(ConfigError, match=r"events\.jsonl:7"):
        replay(copy)


@pytest.mark.parametrize("field", ["fingerprint", "numerics_profile", "num_blocks"])
def test_a_record_of_another_model_or_machine_is_refused_by_the_field(copy, field):
    other = 4 if field == "num_blocks" else "other"
    header = replace(copy.header, **{field: other})
    with pytest.raises(ConfigError):
        replay(replace(copy, header=header))


def test_a_record_without_a_line_repeats_nothing(copy):
    write_lines(copy, [])
    result = replay(copy)
    assert (result.is_good, result.num_steps, result.ending) == (True, 0, Ending.CUT_OFF)


def test_a_recorder_is_called_twice_a_step_however_many_tokens_it_has():
    class Counting(NullRecorder):
        def __init__(self):
            self.calls = Counter()

        def __getattribute__(self, name):
            if name not in ("calls", "__class__"):
                self.calls[name] += 1
            return super().__getattribute__(name)

    counting = Counting()
    with recorded(None, recorder=counting) as (engine, collector):
        submit(engine, request("many", LONG[:30], n=8, max_tokens=20, temperature=1.0))
        for choice in range(8):
            collector.wait("many", choice)
        num_steps = engine.num_steps
    assert counting.calls == {"added": 1, "planned": num_steps, "sampled": num_steps, "close": 1}


# -- galerne replay --------------------------------------------------------------------------


def test_the_command_says_equal_or_where_it_differs_and_by_its_exit_code(mixed, copy):
    equal = CliRunner().invoke(app, ["replay", str(mixed.path.parent)])
    assert equal.exit_code == 0, equal.output
    assert "8 requests" in equal.output
    assert equal.output.rstrip().endswith("1 epochs: equal")

    tamper(
        copy,
        lambda f: f["event"] == "planned" and f["step"] == 3,
        lambda f: f["entries"][0].__setitem__(3, 77),
    )
    different = CliRunner().invoke(app, ["replay", str(copy.path)])
    assert different.exit_code == 1
    assert "DIFFERENT at step 3 (line" in different.output


def test_an_incomplete_record_is_no_proof(copy):
    lines = lines_of(copy)
    lines[-1] = lines[-1] | {"event": "incomplete", "reason": "planted"}
    write_lines(copy, lines)
    result = CliRunner().invoke(app, ["replay", str(copy.path)])
    assert result.exit_code == 1
    assert "incomplete: planted" in result.output


def test_every_start_of_a_gateway_makes_a_record_of_its_own(tmp_path):
    for _ in range(2):
        with recorded(tmp_path) as (engine, collector):
            submit(engine, request("r"))
            collector.wait("r")
    assert len(find_records(tmp_path)) == 2
    assert {r.path.stat().st_mode & 0o777 for r in find_records(tmp_path)} == {0o700}
