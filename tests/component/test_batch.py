"""A batch: every request gets one line, whatever happens to the run."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from cluster.batch.lines import (
    BatchFileError,
    answer_line,
    check_requests,
    read_done,
    read_requests,
)
from cluster.batch.run import BatchSettings, run_batch
from galerne.errors import ConfigError, NotServingError, OverloadedError
from helpers.api_servers import http_served, ids_of, make_frontend
from helpers.fake_gateway import Answer, FakeGateway
from helpers.waiting import wait_until
from router.api.http_app import build_http_app

CHAT = {"messages": [{"role": "user", "content": "Hello"}]}


def line_of(number, url="/v1/chat/completions", body=CHAT, **changes):
    fields = {"custom_id": f"id-{number}", "method": "POST", "url": url, "body": body} | changes
    return json.dumps(fields)


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


async def run_in_process(path, frontend, done=(), **settings):
    """Answers by id, of a run against the app itself."""
    lines = []
    transport = httpx.ASGITransport(build_http_app(frontend))
    options = {"url": "http://app", "concurrency": 3, "patience_s": 5.0} | settings
    await run_batch(
        read_requests(path, done),
        BatchSettings(**options),
        lambda line, status: lines.append((json.loads(line), status)),
        transport,
    )
    assert all(line["response"]["status_code"] == status for line, status in lines)
    return {line["custom_id"]: line for line, _ in lines}


async def test_every_request_gets_its_answer_and_a_refused_one_its_error(tmp_path):
    bad = CHAT | {"temperature": -1}
    path = write(
        tmp_path / "in.jsonl",
        line_of(1),
        line_of(2, body=bad),
        "",
        line_of(3, "/v1/completions", {"prompt": "a"}),
        line_of(4, "/v1/responses", {"input": "a"}),
    )
    answers = await run_in_process(path, make_frontend(FakeGateway(Answer(ids_of("ok")))))
    assert check_requests(path) == set(answers) == {f"id-{n}" for n in (1, 2, 3, 4)}
    codes = [answers[f"id-{n}"]["response"]["status_code"] for n in (1, 2, 3, 4)]
    assert codes == [200, 400, 200, 200]
    first, refused = answers["id-1"], answers["id-2"]
    assert first["response"]["body"]["choices"][0]["message"]["content"] == "ok"
    assert first["response"]["request_id"]
    assert first["error"] is None
    assert refused["response"]["body"]["error"]["param"] == "temperature"


async def test_no_more_requests_run_at_a_time_than_asked_for(tmp_path):
    gateway = FakeGateway()
    path = write(tmp_path / "in.jsonl", *map(line_of, range(8)))
    running = asyncio.create_task(run_in_process(path, make_frontend(gateway), concurrency=3))
    for _ in range(8):
        run = await gateway.next_run()
        assert sum(not r.is_over for r in gateway.runs) <= 3
        run.emit(5)
        run.end()
    assert len(await running) == 8


async def test_a_full_server_is_asked_again_and_its_refusal_kept_when_the_patience_ends(tmp_path):
    gateway = FakeGateway(Answer(ids_of("ok")))
    gateway.refusal = OverloadedError("queue", 8, 0.5)
    path = write(tmp_path / "in.jsonl", line_of(1))
    kept = await run_in_process(path, make_frontend(gateway), patience_s=0.1)
    assert kept["id-1"]["response"]["status_code"] == 429
    asking = asyncio.create_task(run_in_process(path, make_frontend(gateway)))
    await asyncio.sleep(0.1)
    gateway.refusal = None
    assert (await asking)["id-1"]["response"]["status_code"] == 200


async def test_a_server_that_stays_away_ends_the_run_and_gives_no_request_an_answer(tmp_path):
    path = write(tmp_path / "in.jsonl", line_of(1))
    settings = BatchSettings(url="http://127.0.0.1:9", patience_s=0.3)
    with pytest.raises(NotServingError, match=r"127\.0\.0\.1:9"):
        await run_batch(read_requests(path), settings, lambda *_: pytest.fail("an answer"))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{oops", "is no JSON"),
        ("[]", "must be an object"),
        (line_of(2, method="GET"), "method"),
        (line_of(2, url="/v1/files"), "url"),
        (line_of(2, url=["x"]), "url"),
        (line_of(2, custom_id=""), "custom_id"),
        (line_of(2, body="x"), "body"),
        (line_of(2, body={"stream": True}), "stream"),
        (line_of(1), "'id-1' is there twice"),
    ],
)
def test_a_line_that_is_no_request_is_named_before_anything_is_asked(tmp_path, line, problem):
    path = write(tmp_path / "in.jsonl", line_of(1), "", line)
    with pytest.raises(BatchFileError, match=problem) as caught:
        check_requests(path)
    assert caught.value.line == 3


def answer_to(number):
    return answer_line(f"id-{number}", f"batch_req_{number}", 200, "", {})


@pytest.mark.parametrize("num_bytes", [1, 5, 30])
def test_a_torn_last_line_is_cut_off_and_a_strange_one_refused(tmp_path, num_bytes):
    path = tmp_path / "out.jsonl"
    whole = answer_to(1)
    path.write_bytes(whole + answer_to(2)[:num_bytes])
    with path.open("a+b") as file:
        assert read_done(path, file, {"id-1", "id-2"}) == {"id-1"}
        file.write(b"more\n")
    assert path.read_bytes() == whole + b"more\n"
    with path.open("a+b") as file, pytest.raises(BatchFileError, match="no answer") as caught:
        read_done(path, file, {"id-1"})
    assert caught.value.line == 2
    with path.open("a+b") as file, pytest.raises(BatchFileError, match="does not ask"):
        read_done(path, file, {"id-9"})


@pytest.mark.parametrize("content", [line_of(1), line_of(1) + "\n", '{"a": 1}', "a note"])
def test_a_file_that_holds_something_else_than_answers_is_left_as_it_is(tmp_path, content):
    """Such as the file of requests itself, whose ids are all wanted."""
    path = tmp_path / "in.jsonl"
    path.write_text(content)
    with path.open("a+b") as file, pytest.raises(BatchFileError, match="no answer of a batch"):
        read_done(path, file, {"id-1"})
    assert path.read_text() == content


async def test_a_request_that_ran_for_long_is_asked_again_when_its_server_restarts(tmp_path):
    """The patience is for a server that is away, not for the request."""
    path = write(tmp_path / "in.jsonl", line_of(1))
    answered, tries = [], []

    async def breaks_once(request):
        tries.append(request)
        if len(tries) == 1:
            await asyncio.sleep(0.6)
            raise httpx.ReadError("connection reset")
        if len(tries) == 2:
            return httpx.Response(503)
        return httpx.Response(200, json={})

    settings = BatchSettings(url="http://app", patience_s=0.9)
    transport = httpx.MockTransport(breaks_once)
    await run_batch(
        read_requests(path), settings, lambda _, status: answered.append(status), transport
    )
    assert answered == [200]


async def test_what_no_server_could_take_is_refused_by_it_and_ends_no_run(tmp_path):
    """Else no run would ever get beyond this line."""
    path = write(
        tmp_path / "in.jsonl",
        line_of(1, body={"messages": [{"role": "user", "content": "\ud800"}]}),
        line_of(2, body=CHAT | {"temperature": float("nan")}),
        line_of(3),
    )
    answers = await run_in_process(path, make_frontend(FakeGateway(Answer(ids_of("ok")))))
    codes = [answers[f"id-{n}"]["response"]["status_code"] for n in (1, 2, 3)]
    assert codes == [400, 400, 200]


@pytest.mark.parametrize("url", ["localhost:8000", "127.0.0.1:8000", "http://", "http://[::1"])
async def test_an_address_that_is_none_is_refused_at_once(tmp_path, url):
    path = write(tmp_path / "in.jsonl", line_of(1))
    with pytest.raises(ConfigError, match="server"):
        await run_batch(read_requests(path), BatchSettings(url=url), lambda *_: None)


@contextmanager
def slow_server(most):
    """A real server in a thread of its own that answers so many requests, until it may go on.

    Its URL, and what lets it go on.
    """
    gateway = FakeGateway()
    may_go_on = threading.Event()
    is_over, started, addresses = threading.Event(), threading.Event(), []

    async def serve():
        async with http_served(make_frontend(gateway)) as url:
            addresses.append(url)
            started.set()
            while not is_over.is_set():
                for run in [run for run in gateway.runs if not run.is_over]:
                    if sum(run.is_over for run in gateway.runs) >= most and not may_go_on.is_set():
                        break
                    run.emit(5)
                    run.end()
                    await asyncio.sleep(0.002)
                await asyncio.sleep(0.002)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(20)
        yield addresses[0], may_go_on.set
    finally:
        is_over.set()
        thread.join(20)


def test_a_batch_that_is_killed_and_run_again_loses_no_line_and_doubles_none(tmp_path):
    num_lines, root = 150, Path(__file__).parents[2]
    source = write(tmp_path / "in.jsonl", *map(line_of, range(num_lines)))
    answers = tmp_path / "out.jsonl"
    paths = os.pathsep.join(str(root / part) for part in (".", "proto"))

    def start(url):
        command = "from cluster.cli import main; main()"
        arguments = [str(source), str(answers), "--server", url, "--concurrency", "4"]
        return subprocess.Popen(
            [sys.executable, "-c", command, "batch", *arguments],
            env={**os.environ, "PYTHONPATH": paths},
            stderr=subprocess.PIPE,
            text=True,
        )

    def num_answers():
        return answers.read_bytes().count(b"\n") if answers.exists() else 0

    with slow_server(most=60) as (url, go_on):
        child = start(url)
        wait_until(lambda: num_answers() >= 40, 60)
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=60)
        assert num_answers() < num_lines
        go_on()
        with answers.open("ab") as file:
            file.write(answer_to(1)[:40])  # as a kill in the middle of a line leaves it
        child = start(url)
        told = child.communicate(timeout=100)[1]
    assert child.returncode == 0, told
    assert "answered" in told
    counts = Counter(json.loads(line)["custom_id"] for line in answers.read_text().splitlines())
    assert counts == {f"id-{n}": 1 for n in range(num_lines)}
