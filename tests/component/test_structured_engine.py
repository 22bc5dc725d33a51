"""Grammars in the engine: the same tokens moved, recorded, preempted, guessed; nobody waits."""

import asyncio
import json
import threading
from dataclasses import replace

import pytest

from helpers.api_servers import embedded
from helpers.gateway_process import speaking_settings
from helpers.gateways import Collector, request
from helpers.guessing import always, knowing
from helpers.guided import END_THINK, EOS, SCHEMA, THINK, chat_ids
from helpers.records import only_record
from helpers.waiting import until
from router.engine.request import FinishReason, ResumedChoice
from router.engine.rules import AnswerRules
from router.gateway.build import build_gateway
from router.gateway.codec import decode_request, encode_request
from router.gateway.replay import replay


def guided(name, rules, **sampling):
    sampling = {"temperature": 1.5, "seed": 4, "max_tokens": 120, "n": 2} | sampling
    return replace(request(name, chat_ids("high"), ignore_eos=False, **sampling), rules=rules)


async def run(host, asked):
    """Tokens and reasons of the choices that the gateway runs."""

    async def accepted():
        pass

    said = {choice: [] for choice in asked.open_choices}
    reasons = {}

    async def follow():
        async for delta in host.hub.stream(host.engine, asked, accepted):
            said[delta.choice] += delta.token_ids
            if delta.finish_reason is not None:
                reasons[delta.choice] = delta.finish_reason

    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(follow(), host.hub._loop))
    return said, reasons


async def test_stream_that_another_gateway_goes_on_with_stays_the_same(standing):
    grammar = "start: %json " + json.dumps(SCHEMA)
    rules = AnswerRules(grammar=grammar, may_think=True, max_thinking_tokens=9)
    said, reasons = await run(standing, guided("whole", rules))
    assert set(reasons.values()) == {FinishReason.STOP}
    shortest = min(map(len, said.values()))
    for place in {0, 1, 5, 11, shortest // 2, shortest - 1}:
        resumed = tuple(ResumedChoice(tuple(said[c][:place])) for c in (0, 1))
        asked = replace(guided(f"moved-{place}", rules), resumed=resumed)
        rest, again = await run(standing, asked)
        assert rest == {choice: tokens[place:] for choice, tokens in said.items()}
        assert again == reasons


def test_recorded_run_is_repeated_with_its_grammar(tmp_path):
    collector = Collector()
    settings = speaking_settings(0, record=tmp_path)
    built = build_gateway(settings, None, collector, lambda *_: None)
    built.engine.start()
    rules = AnswerRules(grammar="start: %json " + json.dumps(SCHEMA), may_think=True)
    asked = decode_request(encode_request(guided("recorded", rules)))
    try:
        built.engine.submit(asked, built.guides.guides_now(asked)).result(60)
        num_tokens = sum(len(collector.tokens("recorded", choice)) for choice in (0, 1))
    finally:
        built.engine.stop()
    result = replay(only_record(tmp_path))
    assert result.is_good
    assert result.num_tokens == num_tokens


@pytest.mark.parametrize("wrong", [0.0, 0.3])
async def test_guesses_change_no_token_of_an_answer_in_a_grammar(standing, monkeypatch, wrong):
    """Also where the grammar ends within the guesses, which go on behind its end."""
    rules = AnswerRules(grammar="start: %json " + json.dumps(SCHEMA))
    said, reasons = await run(standing, guided("slow", rules, speculative=False))
    answers = {("fast", choice): [*tokens, 7, 7, 7] for choice, tokens in said.items()}
    drafting = knowing(answers, always(), wrong=wrong)(None)
    monkeypatch.setattr(standing.engine, "drafting", drafting)
    assert await run(standing, guided("fast", rules)) == (said, reasons)
    assert drafting.num_accepted > 0


async def test_preempted_answer_stays_in_its_grammar(standing):
    rules = AnswerRules(grammar="start: /[a-z]{200,300}/")
    asked = guided("calm", rules, max_tokens=400)
    said, _ = await run(standing, asked)
    shaken = asyncio.create_task(run(standing, replace(asked, request_id="shaken")))
    await until(lambda: standing.engine.load().running == 2)
    assert await asyncio.wrap_future(standing.engine.preempt("shaken")) > 0
    assert (await shaken)[0] == said


async def test_engine_steps_on_while_a_grammar_compiles(standing, monkeypatch):
    compiler = standing._built.guides.compiler
    is_compiling, may_go_on = threading.Event(), threading.Event()
    compile_ = compiler._compile

    def slow(grammar, vocabulary):
        is_compiling.set()
        assert may_go_on.wait(30)
        return compile_(grammar, vocabulary)

    monkeypatch.setattr(compiler, "_compile", slow)
    cold = asyncio.create_task(run(standing, guided("cold", AnswerRules(grammar='start: "ok"'))))
    assert await asyncio.to_thread(is_compiling.wait, 10)
    before = standing.engine.num_steps
    plain = replace(guided("plain", None, n=1), sampling=request(max_tokens=60).sampling)
    said, _ = await run(standing, plain)
    assert len(said[0]) == 60
    assert standing.engine.num_steps - before >= 60
    assert not cold.done()
    may_go_on.set()
    said, reasons = await cold
    assert {embedded().decode(ids) for ids in said.values()} == {"ok"}
    assert set(reasons.values()) == {FinishReason.STOP}


async def test_reasoning_leaves_no_unanswered_end(standing):
    """Within reasoning the end token is not drawn: the answer would be missing."""
    rules = AnswerRules(grammar='start: "yes"', is_thinking=True, max_thinking_tokens=30)
    asked = guided("thinks", rules, temperature=1.0, logit_bias={EOS: 100.0})
    said, _ = await run(standing, asked)
    for ids in said.values():
        assert THINK not in ids
        assert embedded().decode(ids[ids.index(END_THINK) :]) == "yes"
        assert ids.index(END_THINK) <= 30
