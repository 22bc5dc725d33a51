"""A frontend that waits for the parts: what it answers until they serve."""

import httpx
import pytest
from fastapi import FastAPI

from cluster.control.starting import StartReport
from cluster.ingress.start import Start, WaitingApp
from galerne.errors import NotServingError
from helpers.waiting import until

LOADING = StartReport({"shard-1": ("experts", 3, 8), "gateway-0": ("dense", 2, 2)}, {}, ["shard-0"])


class Directory:
    def __init__(self):
        self.report = None

    async def start_report(self):
        if self.report is None:
            raise NotServingError("controller galerne-1-controller gave no answer in 0.0 s")
        return self.report


def client_of(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://galerne")


async def test_ready_says_what_is_loaded_and_everything_else_is_refused_with_it():
    directory = Directory()
    start = Start(directory, poll_s=0.001)
    async with client_of(WaitingApp(start, lambda: None)) as client, start.watched():
        assert (await client.get("/health")).status_code == 200
        await until(lambda: "waiting for the controller" in start.reason)
        directory.report = LOADING
        await until(lambda: "loading" in start.reason)
        ready = await client.get("/ready")
        assert ready.status_code == 503
        want = "loading: gateway-0: dense 2 of 2; shard-1: experts 3 of 8; 1 part(s) ready"
        assert ready.json()["reason"] == want
        chat = await client.post("/v1/chat/completions", json={})
        assert chat.status_code == 503
        assert "shard-1: experts 3 of 8" in chat.json()["error"]["message"]


async def test_the_app_that_is_built_meanwhile_takes_over():
    built = FastAPI()
    built.add_api_route("/ready", lambda: "yes")
    apps = [None]
    async with client_of(WaitingApp(Start(Directory()), lambda: apps[0])) as client:
        assert (await client.get("/ready")).status_code == 503
        apps[0] = built
        assert (await client.get("/ready")).json() == "yes"


async def test_a_start_that_failed_says_why_and_how_far_it_came():
    directory = Directory()
    directory.report = StartReport({}, {"shard-2": "no such file"}, [])
    start = Start(directory, poll_s=0.001)

    async def fail():
        async with start.watched():
            await until(lambda: "shard-2 failed: no such file" in start.reason)
            raise NotServingError("no gateway answered in 60 s")

    with pytest.raises(NotServingError):
        await fail()
    assert start.reason.startswith("no gateway answered in 60 s; loading: shard-2 failed")
