"""The chat page's files as HTTP gives them, and what the pages ask the API for."""

import re
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

import httpx
import pytest
from hatchling.builders.wheel import WheelBuilder

from helpers.api_servers import http_served, make_frontend
from helpers.explained import EXPERTS, FakeController
from helpers.fake_gateway import FakeGateway
from router.api.cluster_port import ExpertLoadFacts
from router.api.keys import ApiKeys

ROOT = Path(__file__).parents[2]
NAMES = sorted(entry.name for entry in files("router.api").joinpath("static").iterdir())
PATHS = ["/", *(f"/static/{name}" for name in NAMES)]


@asynccontextmanager
async def served(controller=None, gateway=None, **options):
    frontend = make_frontend(gateway or FakeGateway(), **options)
    async with (
        http_served(frontend, controller) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        yield client


async def test_every_file_is_open_to_all_and_has_a_strict_policy_and_its_own_type():
    async with served(keys=ApiKeys(["sesame"])) as client:
        answers = {path: await client.get(path) for path in PATHS}
        head = await client.head("/")
    assert (head.status_code, head.content) == (200, b"")
    types = {"": "text/html", "html": "text/html", "css": "text/css"}
    types |= {"js": "text/javascript", "svg": "image/svg+xml"}
    for path, answer in answers.items():
        assert answer.status_code == 200
        suffix = path.rpartition("/")[2].rpartition(".")[2]
        assert answer.headers["content-type"].startswith(types[suffix])
        policy = dict(
            part.strip().partition(" ")[::2]
            for part in answer.headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert policy["base-uri"] == policy["form-action"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"


async def test_the_files_name_no_other_host_and_the_page_has_no_code_of_its_own():
    async with served() as client:
        texts = {path: (await client.get(path)).text for path in PATHS}
    for path, text in texts.items():
        named = set(re.findall(r"[a-z]+://[^\s\"']+", text)) - {"http://www.w3.org/2000/svg"}
        assert not named, path
        assert not re.search(r"@import|url\(|innerHTML|outerHTML|insertAdjacentHTML", text), path
    page = texts["/"]
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page)
    linked = re.findall(r'(?:src|href)="(static/[^"]+)"', page)
    imported = [
        f"static/{name}" for text in texts.values() for name in re.findall(r'from "\./(.+?)"', text)
    ]
    served_names = {path.removeprefix("/") for path in PATHS[1:]} - {"static/chat.html"}
    assert {*linked, *imported} == served_names, "each file is used, and there"


@pytest.mark.parametrize(
    "path", ["/static/", "/static/x.js", "/static/../keys.py", "/static/%2e%2e%2fkeys.py"]
)
async def test_no_other_file_is_given(path):
    async with served() as client:
        answer = await client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"


def test_the_wheel_has_every_file_of_the_pages():
    builder = WheelBuilder(str(ROOT))
    packed = {file.distribution_path for file in builder.recurse_included_files()}
    assert {f"router/api/static/{name}" for name in NAMES} <= packed
    assert {"chat.html", "chat.js", "chat.css", "base.css"} <= set(NAMES)
    assert "router/api/templates/cluster.html" in packed


async def test_a_model_tells_what_the_page_may_offer():
    async with served(gateway=FakeGateway(takes_images=True)) as client:
        [seeing] = (await client.get("/v1/models")).json()["data"]
    async with served() as client:
        [blind] = (await client.get("/v1/models")).json()["data"]
    assert seeing["capabilities"]["vision"]
    assert not blind["capabilities"]["vision"]
    assert blind["capabilities"]["reasoning"]
    assert blind["reasoning_efforts"] == ["none", "high"]


async def test_who_serves_and_what_shards_have_computed_is_told_to_whoever_has_a_key():
    async with served(FakeController(), keys=ApiKeys(["sesame"])) as client:
        refused = [await client.get(path) for path in ("/v1/cluster", "/cluster/experts")]
        client.headers["Authorization"] = "Bearer sesame"
        serving = (await client.get("/v1/cluster")).json()
        experts = (await client.get("/cluster/experts")).json()
    assert [answer.status_code for answer in refused] == [401, 401]
    assert (serving["epoch"], serving["transport"]) == (3, "shm")
    assert serving["gateways"] == ["gateway-0"]
    assert serving["shards"] == [{"id": "shard-1", "rows": 4000}, {"id": "shard-2", "rows": None}]
    assert experts["rows"] == [list(layer) for layer in EXPERTS.rows]
    assert experts["shards"][0]["busy"] == 0.5
    assert experts["window_s"] == 60.0


async def test_the_cluster_page_draws_experts_and_lists_shards():
    controller = FakeController()
    async with served(controller) as client:
        hot = (await client.get("/cluster")).text
        controller.load = ExpertLoadFacts(
            window_s=60.0, rows=((0, 0), (0, 0)), balancedness=1.0, shards=EXPERTS.shards
        )
        cold = (await client.get("/cluster")).text
        controller.load = ExpertLoadFacts(window_s=60.0, rows=((0,),), balancedness=1.0)
        local = (await client.get("/cluster")).text
    assert 'viewBox="0 0 4 2"' in hot
    assert '<path class="h8" d="M2 0h1v1h-1zM3 1h1v1h-1z"/>' in hot
    assert "96 rows" in hot
    assert "layer 0, expert 2" in hot
    for text in (hot, cold):
        assert "shard-2" in text
        assert "no answer" in text
        assert "4,000" in text
    assert "No row in the last" in cold
    assert "The gateways hold the experts" in local


async def test_while_the_controller_is_away_chat_is_told_so_with_503():
    controller = FakeController()
    controller.is_away = True
    async with served(controller) as client:
        answer = await client.get("/v1/cluster")
    assert answer.status_code == 503
