"""The page about the cluster, and the same as JSON."""

import base64
import hashlib
import re
from contextlib import asynccontextmanager
from dataclasses import replace
from html.parser import HTMLParser

import httpx
import pytest

from cluster.planning.decision import DecisionRecord
from helpers.api_servers import http_served, make_frontend
from helpers.explained import FakeController, decide, decided
from helpers.fake_gateway import FakeGateway
from router.api.http_cluster import as_bearer
from router.api.keys import ApiKeys

VOID = {"meta", "link", "br", "hr", "img", "input"}
OUTSIDE = {"src", "srcset", "data", "action", "background", "cite", "poster"}


class Checker(HTMLParser):
    """Every tag is closed in order; nothing is loaded, run or styled in place."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.seen, self.text, self.links, self.style = [], set(), [], [], ""
        self.feed(text)
        self.close()
        assert self.tags == []

    def handle_starttag(self, tag, attributes):
        if tag == "link":
            assert dict(attributes)["href"] == "/static/icon.svg"
        else:
            self.seen.add(tag)
        for name, value in attributes:
            assert name not in OUTSIDE
            assert name != "style"
            assert not name.startswith("on")
            if name == "href" and "number=" in value:
                self.links.append(value)
        if tag not in VOID:
            self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.tags.pop() == tag

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "style":
            self.style += data
        elif data.strip():
            self.text.append(data.strip())


@asynccontextmanager
async def served(controller, **options):
    frontend = make_frontend(FakeGateway(), **options)
    async with (
        http_served(frontend, controller) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        yield client


async def test_the_page_shows_topology_load_decision_candidates_and_regret():
    async with served(FakeController(decided())) as client:
        latest = await client.get("/cluster")
        first = await client.get("/cluster", params={"number": 1})
    assert latest.status_code == first.status_code == 200
    page = Checker(latest.text)
    text = " ".join(page.text)
    for part in (
        "shard-1",
        "Decision 2",
        "saves 85% of the cost",
        "switches to throughput with local experts, 2 gateways",
    ):
        assert part in text, text
    assert page.links == ["/cluster?number=2", "/cluster?number=1"]
    assert 'http-equiv="refresh"' in latest.text
    text = " ".join(Checker(first.text).text)
    for part in (
        "Decision 1",
        "urgent",
        "carries 11.3 of 66 requests/s",
        "ttft_p95_s -50%",
        "0% against throughput · local · 8g · 32×512 · 8 nodes",
        "chosen",
    ):
        assert part in text, text
    assert 'http-equiv="refresh"' not in first.text, "what one reads must not jump"


async def test_the_page_needs_nothing_from_elsewhere_and_its_policy_lets_its_style_pass():
    async with served(FakeController(decided())) as client:
        answer = await client.get("/cluster")
    page = Checker(answer.text)
    assert page.seen.isdisjoint({"script", "img", "iframe", "form", "object"})
    policy = answer.headers["content-security-policy"]
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert answer.headers["cache-control"] == "no-store"
    assert not re.search(r"url\(|@import", page.style)


async def test_words_from_the_cluster_are_escaped():
    controller = FakeController(decided())
    nasty = "<script>alert(1)</script>&\"'"
    made = decide(2.0)
    controller.scaler.hold(replace(made, reason=nasty))
    controller.scaler.note(DecisionRecord(decision=replace(made, reason=nasty)))
    async with served(controller) as client:
        answer = await client.get("/cluster")
    assert "<script" not in answer.text
    assert nasty in Checker(answer.text).text


async def test_without_an_autoscaler_the_topology_is_shown_and_what_is_missing():
    async with served(FakeController()) as client:
        answer = await client.get("/cluster")
        told = (await client.get("/cluster/decisions")).json()
        one = await client.get("/cluster/decisions/1")
    text = " ".join(Checker(answer.text).text)
    assert "shard-1" in text
    assert "run galerne doctor" in text
    assert told["autoscaler"] is None
    assert "run galerne doctor" in told["problem"]
    assert (one.status_code, one.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_while_the_controller_is_away_the_page_says_so_and_tries_again():
    controller = FakeController(decided())
    controller.is_away = True
    async with served(controller) as client:
        answer = await client.get("/cluster")
        told = await client.get("/cluster/decisions")
    assert answer.status_code == told.status_code == 503
    assert "gave no answer" in " ".join(Checker(answer.text).text)
    assert 'http-equiv="refresh"' in answer.text


async def test_json_has_the_decisions_after_a_number_and_the_whole_record_of_one():
    async with served(FakeController(decided())) as client:
        told = (await client.get("/cluster/decisions", params={"after": 1})).json()
        all_of_them = (await client.get("/cluster/decisions")).json()
        record = (await client.get("/cluster/decisions/1")).json()
    assert [decision["number"] for decision in told["decisions"]] == [2]
    assert [decision["number"] for decision in all_of_them["decisions"]] == [1, 2]
    assert told["topology"]["epoch"] == 3
    assert told["autoscaler"]["objectives"]["ttft_p95_s"] == 2.0
    lost = all_of_them["decisions"][0]["candidates"][-1]
    assert lost["ttft_p95_s"] is None, "JSON has no infinity"
    assert record["decision"]["binding"] == "requests_per_s"
    assert record["outcome"]["regret"] == 0


async def test_the_page_has_the_newest_twenty_decisions():
    controller = FakeController(decided())
    for _ in range(23):
        controller.scaler.note(controller.scaler.records[-1][2])
    async with served(controller) as client:
        links = Checker((await client.get("/cluster")).text).links
    assert links == [f"/cluster?number={number}" for number in range(25, 5, -1)]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/cluster?number=x", "number"),
        ("/cluster?number=7", "number"),
        ("/cluster/decisions?after=-1", "after"),
        ("/cluster/decisions?after=99999999999999999999", "after"),
        ("/cluster/decisions/1.5", "number"),
        ("/cluster/decisions/7", "number"),
    ],
)
async def test_a_wrong_number_is_refused_and_named(path, field):
    async with served(FakeController(decided())) as client:
        answer = await client.get(path)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize("path", ["/cluster", "/cluster/decisions", "/cluster/decisions/1"])
async def test_a_key_is_needed_as_bearer_or_as_the_password_a_browser_asks_for(path):
    async with served(FakeController(decided()), keys=ApiKeys(["sesame"])) as client:
        for wrong in ({}, {"auth": ("me", "wrong")}, {"headers": {"Authorization": "Basic %%%"}}):
            refused = await client.get(path, **wrong)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"].startswith("Basic realm=")
            assert "shard-1" not in refused.text
        by_password = await client.get(path, auth=("me", "sesame"))
        by_bearer = await client.get(path, headers={"Authorization": "Bearer sesame"})
    assert by_password.status_code == by_bearer.status_code == 200


def test_only_a_readable_basic_value_becomes_a_bearer_key():
    coded = base64.b64encode(b"user:a:b").decode()
    assert as_bearer(f"bAsIc {coded}") == "Bearer a:b"
    for other in (None, "", "Bearer x", "Basic !", "Basic " + base64.b64encode(b"\xff").decode()):
        assert as_bearer(other) == other


async def test_an_app_without_a_controller_has_no_such_page():
    async with served(None) as client:
        assert (await client.get("/cluster")).status_code == 404
