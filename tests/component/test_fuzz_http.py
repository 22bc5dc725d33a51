"""The HTTP API under hostile requests: it neither fails, hangs nor keeps anything of them."""

import asyncio
import gc
import json
from types import SimpleNamespace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.api_servers import ids_of, make_frontend
from helpers.explained import FakeController, decided
from helpers.fake_gateway import Answer, FakeGateway
from helpers.fuzzing import SCALARS, TEXTS, Tally, damaged, fuzzed, mutated
from helpers.sure_questions import SUM, TOOL, URL, WEATHER, WEATHER_NOW
from helpers.waiting import until
from router.api.http_app import build_http_app
from router.api.inputs import ApiLimits
from router.engine.request import TokenLogprob, TokenLogprobs

GRACE_S = 0.05
TOOLS = [TOOL]
FLAT_TOOLS = [{"type": "function", **WEATHER}]
CALL_ID = "abcdefghi"
CALLED = {"name": "get_weather", "arguments": "{}"}
CALL = {"id": CALL_ID, "type": "function", "function": CALLED}
TURNS = [
    {"role": "system", "content": "Be brief."},
    *SUM,
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Hm"},
    {"role": "tool", "tool_call_id": CALL_ID, "content": WEATHER_NOW},
]
SEE = {"type": "image_url", "image_url": {"url": URL}}
LOOK = [{"role": "user", "content": [SEE, {"type": "text", "text": "What?"}]}]
SAMPLING = {
    "temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "presence_penalty": 0.1,
    "frequency_penalty": 0.1, "repetition_penalty": 1.1, "seed": 1, "logit_bias": {"5": 1.5},
    "min_tokens": 1, "max_tokens": 5, "stop": ["x"], "stop_token_ids": [7], "ignore_eos": True,
    "n": 2, "cache_salt": "s", "priority": 1, "timeout": 5.0, "user": "u", "metadata": {"k": "v"},
}  # fmt: skip
CHAT = [
    {"messages": SUM},
    {"messages": TURNS, "tools": TOOLS, "tool_choice": "auto", "reasoning_effort": "high"},
    {"messages": LOOK, "max_completion_tokens": 5, "logprobs": True, "top_logprobs": 1},
    {"messages": SUM, "stream": True, "stream_options": {"include_usage": True}, **SAMPLING},
    {"messages": SUM, "response_format": {"type": "text"}, "prompt_logprobs": 1},
]
COMPLETION = [
    {"prompt": "Once", "echo": True, "logprobs": 1, "max_tokens": 3},
    {"prompt": ["a", "b"], "stream": True, **SAMPLING},
    {"prompt": [[5, 6], [7]], "prompt_logprobs": 1, "max_tokens": 0, "echo": True},
    {"prompt": [5, 6, 7], "best_of": 1, "suffix": None},
]
RESPONSES = [
    {"input": "Hello", "instructions": "Be brief.", "store": False, "metadata": {"k": "v"}},
    {
        "input": [
            {"role": "user", "content": [{"type": "input_image", "image_url": URL}]},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
            {"type": "function_call", "call_id": CALL_ID, **CALLED},
            {"type": "function_call_output", "call_id": CALL_ID, "output": WEATHER_NOW},
        ],
        "tools": FLAT_TOOLS,
        "tool_choice": "auto",
        "reasoning": {"effort": "high", "summary": None},
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 1,
        "stream": True,
        "max_output_tokens": 5,
    },
]  # fmt: skip
TOKENIZE = [{"prompt": "Once", "return_token_strs": True}, {"messages": TURNS, "tools": TOOLS}]
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETION,
    "/v1/responses": RESPONSES,
    "/tokenize": TOKENIZE,
    "/detokenize": [{"tokens": [5, 6, 7], "model": "fake"}],
}
POSTS = st.sampled_from(sorted(BODIES)).flatmap(
    lambda path: st.tuples(
        st.just(path),
        st.one_of(
            mutated(BODIES[path]).map(lambda body: json.dumps(body).encode()),
            mutated(BODIES[path]).map(lambda body: json.dumps(body).encode()),
            damaged(st.sampled_from(BODIES[path]).map(lambda body: json.dumps(body).encode())),
            TEXTS,
        ),
    )
)
_ODD = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["X-Galerne-Resumable", "X-Request-Timeout", "X-Request-Id", "Authorization",
         "Last-Event-ID", "Content-Type", "Content-Length", "Accept"]
    ),
    st.sampled_from(["true", "false", "5", "-1", "nan", "inf", "1e400", "0.0,1.1", ""]) | _ODD,
    max_size=2,
)  # fmt: skip
GETS = st.tuples(
    st.sampled_from(
        ["/v1/models", "/v1/models/fake", "/v1/models/", "/v1/streams/x", "/v1/streams/",
         "/health", "/ready", "/metrics", "/cluster", "/cluster/decisions",
         "/cluster/decisions/1", "/cluster/decisions/9" + "9" * 30, "/", "/nowhere/%00"]
    ),
    st.dictionaries(
        st.sampled_from(["offset", "number", "after", "x"]),
        SCALARS.map(str).filter(lambda text: len(text) < 1000),
        max_size=2,
    ),
)  # fmt: skip


def answers():
    ids = ids_of("Good day 😀 x")
    logprobs = [TokenLogprobs(TokenLogprob(t, -0.5), (TokenLogprob(7, -9.0),)) for t in ids]
    calls = ids_of(34, "Hm", 35, "Ok", 9, "get_weather", 32, "{}")
    return Answer(ids, logprobs=logprobs), Answer(calls)


def judge_prompt(run):
    length = len(run.request.prompt_token_ids)
    one = TokenLogprobs(TokenLogprob(5, -1.0), ())
    run.prompt_logprobs = [None, *[one] * (length - 1)]


@pytest.fixture(scope="module")
def app():
    """The app, called in one event loop without a socket in between."""
    gateway = FakeGateway(*answers(), takes_images=True)
    gateway.prepare = judge_prompt
    limits = ApiLimits(max_parked=4, max_body_bytes=1 << 20, resume_grace_s=GRACE_S)
    frontend = make_frontend(gateway, limits=limits)
    transport = httpx.ASGITransport(build_http_app(frontend, FakeController(decided())))
    with asyncio.Runner() as runner:
        runner.run(asyncio.sleep(2 * GRACE_S))  # else a stream that is not known may be lost: 503
        client = httpx.AsyncClient(transport=transport, base_url="http://app")

        def ask(method, path, **options):
            async def within_its_time():
                async with asyncio.timeout(20):
                    return await client.request(method, path, **options)

            return runner.run(within_its_time())

        yield SimpleNamespace(ask=ask, frontend=frontend, gateway=gateway, runner=runner)
        runner.run(client.aclose())


def check(response, body=b""):
    """What holds of every answer. A failure of the app itself is raised by the transport."""
    assert response.status_code < 500, (response.status_code, response.text[:500], body[:2000])
    assert response.headers["x-request-id"]
    if response.status_code >= 400:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
    elif response.headers["content-type"].startswith("text/event-stream"):
        assert response.text.endswith(("data: [DONE]\n\n", "}\n\n"))
    elif "json" in response.headers["content-type"]:
        response.json()


def check_nothing_is_left(app):
    """No request, no task and no run of the gateway outlives its answer."""

    async def settle():
        await app.frontend.close()
        own = {asyncio.current_task()}
        await until(lambda: asyncio.all_tasks() == own)

    app.runner.run(settle())
    assert app.frontend.num_running == 0
    assert all(run.is_over for run in app.gateway.runs)
    gc.collect()


def test_no_post_fails_hangs_or_leaks(app, record_property):
    tally = Tally("http_posts")

    @fuzzed(500)
    @given(POSTS, HEADERS)
    def attack(post, headers):
        path, body = post
        response = app.ask("POST", path, content=body, headers=headers)
        check(response, body)
        tally.add(response.status_code)
        app.gateway.runs[:] = [run for run in app.gateway.runs if not run.is_over]

    attack()
    total = tally.report(record_property)
    assert tally.counts[200] > total / 20, "the fuzzer hardly gets past the checks"
    assert tally.counts[400] > total / 5
    check_nothing_is_left(app)


def test_no_other_request_fails_or_leaks(app, record_property):
    tally = Tally("http_gets")

    @fuzzed(150)
    @given(st.sampled_from(["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "POST"]), GETS, HEADERS)
    def attack(method, get, headers):
        path, query = get
        response = app.ask(method, path, params=query, headers=headers)
        if method != "HEAD":
            check(response)
        assert response.status_code < 500
        tally.add(response.status_code)

    attack()
    tally.report(record_property)
    check_nothing_is_left(app)


def test_no_request_fails_at_the_real_engine(speaking, record_property):
    """The same bodies, run by the demo's model: what the frontend lets through must be served."""
    tally = Tally("engine_posts")
    paths = [path for path in sorted(BODIES) if path.startswith("/v1")]
    posts = st.sampled_from(paths).flatmap(
        lambda path: st.tuples(st.just(path), mutated(BODIES[path]))
    )
    with httpx.Client(base_url=speaking.http, timeout=30) as client:

        @fuzzed(50)
        @given(posts)
        def attack(post):
            path, body = post
            headers = {"X-Request-Timeout": "1"}
            if isinstance(body.get("timeout"), int | float):
                del body["timeout"]
            response = client.post(path, content=json.dumps(body).encode(), headers=headers)
            if response.status_code != 504:  # so long an answer was asked for
                check(response, json.dumps(body).encode())
            assert '"server_error"' not in response.text or "timeout" in response.text
            tally.add(response.status_code)

        attack()
    tally.report(record_property)
    assert tally.counts[200] > 0
