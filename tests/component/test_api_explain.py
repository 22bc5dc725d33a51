"""Explain, ListDecisions and WhatIf over gRPC, and the commands that ask them."""

import asyncio
import importlib
import json
import math
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.planning.decision import DecisionRecord
from galerne.errors import ConfigError
from galerne.topology import Mode
from galerne.v1 import cluster_pb2 as pb
from galerne.v1 import cluster_pb2_grpc
from helpers.api_servers import cluster_served, make_frontend
from helpers.explained import OBJECTIVES, FakeController, RecordedScaler, decide, decided
from helpers.fake_gateway import FakeGateway
from helpers.scaling import CANDIDATES
from helpers.waiting import until
from router.api.cluster_messages import _MESSAGE_BY_FACTS
from router.api.keys import ApiKeys


@asynccontextmanager
async def served(scaler, **options):
    """A stub, and the port for commands."""
    frontend = make_frontend(FakeGateway(), **options)
    controller = scaler if isinstance(scaler, FakeController) else FakeController(scaler)
    async with (
        cluster_served(controller, frontend) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield cluster_pb2_grpc.ClusterServiceStub(channel), f"127.0.0.1:{port}"


async def command(*arguments, catch=False):
    """A command as a user runs it, on a thread: the server runs on this one."""
    return await asyncio.to_thread(CliRunner().invoke, app, arguments, catch_exceptions=catch)


@pytest.mark.parametrize("facts", _MESSAGE_BY_FACTS, ids=lambda kind: kind.__name__)
def test_facts_and_their_message_have_the_same_fields(facts):
    message = _MESSAGE_BY_FACTS[facts]
    assert set(message.DESCRIPTOR.fields_by_name) == set(facts.__slots__)


async def test_a_decision_says_why_what_else_there_was_and_what_came_of_it():
    async with served(decided()) as (stub, _):
        info = await stub.Explain(pb.ExplainRequest(number=1))
    assert (info.mode, info.objectives.ttft_p95_s, info.last_number) == ("auto", 2.0, 2)
    made = info.decision
    assert (made.number, made.action, made.binding, made.is_urgent) == (
        1,
        "change",
        "requests_per_s",
        True,
    )
    assert "carries 11.3 of 60 requests/s" in made.reason
    assert "below" in made.sensitivity
    assert made.calibration_error == 0.07
    best, *others = made.candidates
    assert best.is_chosen
    assert (best.name, best.nodes) == (made.target, 8)
    assert 0 < best.ttft_p95_s < 2
    current = next(candidate for candidate in others if candidate.is_current)
    assert current.name == made.current
    assert math.isinf(current.ttft_p95_s)
    assert current.reason == "carries 11.3 of 66 requests/s"
    assert made.outcome.error_by_quantity["ttft_p95_s"] == pytest.approx(-0.5)
    assert made.outcome.regret == 0
    told = json.loads(made.json)
    assert told["number"] == 1
    assert len(told["decision"]["ranked"]) == made.num_candidates == len(CANDIDATES)


async def test_the_latest_is_told_without_a_number_also_when_it_holds():
    scaler = decided()
    async with served(scaler) as (stub, _):
        info = await stub.Explain(pb.ExplainRequest())
        assert (info.decision.number, info.decision.HasField("outcome")) == (2, False)
        scaler.hold(decide(2.0))
        info = await stub.Explain(pb.ExplainRequest())
        assert (info.decision.number, info.decision.action) == (0, "hold")
        assert info.load.requests_per_s == 2.0


async def test_before_the_first_decision_nothing_is_made_up():
    async with served(RecordedScaler()) as (stub, _):
        info = await stub.Explain(pb.ExplainRequest())
        assert not info.HasField("decision")
        assert not info.HasField("load")
        with pytest.raises(grpc.aio.AioRpcError, match="number: there is no decision 1: none"):
            await stub.Explain(pb.ExplainRequest(number=1))


async def test_decisions_are_listed_from_a_number_on_in_parts_and_without_their_json():
    scaler = decided()
    record = scaler.records[-1][2]
    for _ in range(300):
        scaler.note(record)
    async with served(scaler) as (stub, _):
        found, after = [], 1
        while part := (await stub.ListDecisions(pb.ListDecisionsRequest(after=after))).decisions:
            found += part
            after = part[-1].number
        assert [decision.number for decision in found] == list(range(2, 303))
        assert all(d.json == "" and d.candidates and d.text for d in found)


async def test_the_chosen_and_the_current_candidate_are_shown_however_far_down_they_rank():
    made = decide(60.0)
    many = tuple(
        replace(a, candidate=replace(a.candidate, max_num_seqs=100 + i))
        for i in range(20)
        for a in made.ranked[:1]
    )
    scaler = RecordedScaler()
    scaler.note(
        DecisionRecord(decision=replace(made, ranked=(*many, *made.ranked), num_candidates=28))
    )
    async with served(scaler) as (stub, _):
        told = (await stub.Explain(pb.ExplainRequest())).decision
    assert told.num_candidates == 28
    assert [c.is_chosen for c in told.candidates] == [False] * 8 + [True, False]
    assert told.candidates[-1].is_current


async def test_what_if_asks_the_planner_of_the_cluster_and_fills_in_what_it_sees():
    scaler = decided()
    async with served(scaler) as (stub, _):
        answer = await stub.WhatIf(pb.WhatIfRequest())
        load, objectives, mode, nodes = scaler.questions[0]
        assert (load.requests_per_s, load.prompt_tokens, load.output_tokens) == (2.0, 100, 50)
        assert (objectives, mode, nodes) == (OBJECTIVES, None, 0)
        assert answer.chosen in answer.text
        assert answer.candidates[0].is_chosen
        assert answer.candidates[0].cost > 0
        assert len(json.loads(answer.json)["candidates"]) == answer.num_candidates
        asked = pb.WhatIfRequest(requests_per_s=0, output_tokens=7, ttft_p95_s=0, min_copies=2)
        asked.MergeFrom(pb.WhatIfRequest(mode="throughput", nodes=3, inter_token_p95_s=0.5))
        await stub.WhatIf(asked)
        load, objectives, mode, nodes = scaler.questions[1]
        assert (load.requests_per_s, load.output_tokens) == (0, 7)
        assert objectives == replace(
            OBJECTIVES, ttft_p95_s=None, inter_token_p95_s=0.5, min_copies=2
        )
        assert (mode, nodes) == (Mode.THROUGHPUT, 3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("requests_per_s", -1),
        ("requests_per_s", math.nan),
        ("requests_per_s", math.inf),
        ("prompt_tokens", 0),
        ("output_tokens", 0.5),
        ("arrival_cv2", -0.1),
        ("mode", "fast"),
        ("nodes", -1),
        ("nodes", 100_000),
        ("ttft_p95_s", -1e-9),
        ("inter_token_p95_s", math.nan),
        ("min_copies", 0),
    ],
)
async def test_a_question_out_of_range_is_refused_and_names_the_field(field, value):
    async with served(decided()) as (stub, _):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.WhatIf(pb.WhatIfRequest(**{field: value}))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details().startswith(f"{field}: must be ")


async def test_lengths_must_be_told_before_any_request_was_seen():
    async with served(RecordedScaler()) as (stub, _):
        with pytest.raises(grpc.aio.AioRpcError, match="prompt_tokens: must be given"):
            await stub.WhatIf(pb.WhatIfRequest(requests_per_s=1))


async def test_without_a_calibration_all_three_say_what_to_do():
    async with served(None) as (stub, target):
        for call in (
            stub.Explain(pb.ExplainRequest()),
            stub.ListDecisions(pb.ListDecisionsRequest()),
            stub.WhatIf(pb.WhatIfRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "run galerne doctor" in refused.value.details()
        with pytest.raises(ConfigError, match="run galerne doctor"):
            await command("explain", "--target", target)


async def test_decisions_need_a_key_where_keys_are_asked_for():
    async with served(decided(), keys=ApiKeys(["sesame"])) as (stub, target):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Explain(pb.ExplainRequest())
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        said = await command("decisions", "--target", target, "--api-key", "sesame")
        assert said.exit_code == 0


async def test_explain_shows_a_decision_and_its_regret_in_words():
    async with served(decided()) as (_, target):
        said = await command("explain", "--number", "1", "--target", target)
    for part in (
        "decision 1",
        "urgent",
        "binding    requests_per_s",
        "otherwise  ",
        "switches to throughput with local experts, 7 gateways",
        "names: mode · link",
        "TTFT p95 at most 2.00 s, at most 8 nodes",
        "carries 11.3 of 66 requests/s",
        "chosen",
        "ttft_p95_s -50%",
        "regret     0% against throughput · local · 8g · 32×512 · 8 nodes",
    ):
        assert part in said.stdout, said.stdout


async def test_explain_and_decisions_print_whole_records_as_lines_of_json():
    async with served(decided()) as (_, target):
        one = await command("explain", "--json", "--target", target)
        all_of_them = await command("decisions", "--json", "--target", target)
    assert json.loads(one.stdout)["number"] == 2
    lines = [json.loads(line) for line in all_of_them.stdout.splitlines()]
    assert [line["number"] for line in lines] == [1, 2]
    assert lines[1]["decision"]["target"]["gateways"] == 1
    assert [line["outcome"] is None for line in lines] == [False, True]


async def test_decisions_are_a_table_with_both_topologies_reason_and_regret():
    async with served(decided()) as (_, target):
        said = await command("decisions", "--target", target)
    lines = said.stdout.splitlines()
    assert lines[0].split() == ["number", "time", "action", "from", "→", "to", "reason", "regret"]
    assert "0%" in lines[1]
    assert "saves 85%" in said.stdout
    assert "→ throughput · local · 8g · 32×512 · 8 nodes" in said.stdout


async def test_follow_shows_new_decisions_and_the_outcome_of_open_ones(monkeypatch):
    # Its name in the package is the command's.
    monkeypatch.setattr(importlib.import_module("cluster.cli.explain"), "_POLL_S", 0.02)
    controller = FakeController(decided())

    async def until_listed_anew():
        seen = controller.num_listed
        await until(lambda: controller.num_listed >= seen + 4, 60)

    async with served(controller) as (_, target):
        following = asyncio.create_task(
            command("explain", "--follow", "--target", target, catch=True)
        )
        await until_listed_anew()
        controller.scaler.note(DecisionRecord(decision=decide(60.0)))
        await until_listed_anew()
        controller.scaler.judge(2, 2.0)
        await until_listed_anew()
    said = await following  # the server has gone
    assert isinstance(said.exception, ConfigError)
    text = said.stdout
    assert text.count("decision 2  ") == text.count("decision 3  ") == 1
    assert text.index("decision 2  ") < text.index("decision 3  ") < text.index("outcome of 2")
    assert text.count("outcome of") == 1


async def test_explain_without_a_decision_says_so():
    async with served(RecordedScaler()) as (_, target):
        with pytest.raises(ConfigError, match="none was made yet"):
            await command("explain", "--target", target)


async def test_what_if_asks_a_server_and_refuses_what_only_concerns_this_machine():
    scaler = decided()
    async with served(scaler) as (_, target):
        said = await command("what-if", "--server", target, "--rate", "3", "--mode", "latency")
        assert said.exit_code == 0, said.stdout
        assert said.stdout.startswith("latency with")
        assert "req/s; now 3" in said.stdout
        load, _, mode, _ = scaler.questions[0]
        assert (load.requests_per_s, load.output_tokens, mode) == (3, 50, Mode.LATENCY)
        told = await command("what-if", "--server", target, "--rate", "1e6", "--json")
        assert told.exit_code == 2
        assert json.loads(told.stdout)["chosen"] is None
        with pytest.raises(ConfigError, match="dense=int8: goes without --server"):
            await command("what-if", "--server", target, "--dense", "int8")
