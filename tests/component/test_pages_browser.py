"""Both pages in a real browser, before a real HTTP server; the gateway is moved by the tests."""

import asyncio
import io
import json
import re
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import pytest_asyncio
from PIL import Image

from galerne.errors import OverloadedError
from helpers.api_servers import http_served, ids_of, make_frontend
from helpers.browser import chromium, watched_page
from helpers.explained import EXPERTS, FakeController, decided
from helpers.fake_gateway import FakeGateway
from router.api.keys import ApiKeys

expect = pytest.importorskip("playwright.async_api").expect
pytestmark = pytest.mark.asyncio(loop_scope="module")

THINK, END_THINK, CALLS, ARGS = 34, 35, 9, 32
PHONE = {"viewport": {"width": 375, "height": 700}}
CODE = "Look:\n\n```python\nprint(1 < 2)\n```\n\n- **bold** and `code`\n- 2 * 3 * 4"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser():
    async with chromium() as running:
        yield running


@asynccontextmanager
async def chat(browser, controller=None, path="/", keys=(), **options):
    """(page, gateway) of a server of its own."""
    gateway = FakeGateway(takes_images=True)
    frontend = make_frontend(gateway, keys=ApiKeys(keys))
    async with (
        http_served(frontend, controller or FakeController(decided())) as url,
        watched_page(browser, url + path, **options) as page,
    ):
        yield page, gateway


async def ask(page, gateway, text="Hello"):
    """Type and send; the run that it began."""
    await page.get_by_label("Message", exact=True).fill(text)
    await page.keyboard.press("Enter")
    return await gateway.next_run()


def last(page):
    return page.locator(".turn.assistant").last


async def test_an_answer_grows_as_it_comes_and_ends_with_times_tokens_and_shards(browser):
    controller = FakeController(decided())
    async with chat(browser, controller) as (page, gateway):
        await expect(page.locator("#model")).to_have_text("fake")
        run = await ask(page, gateway)
        run.emit(*ids_of("Good day"))
        await expect(last(page).locator(".words")).to_have_text("Good day")
        await expect(page.get_by_role("button", name="Stop")).to_be_visible()
        now = [replace(EXPERTS.shards[0], rows=5500), replace(EXPERTS.shards[1], rows=3)]
        controller.load = replace(EXPERTS, shards=now)
        run.emit(*ids_of(" to you"))
        run.end()
        await expect(last(page).locator(".words")).to_have_text("Good day to you")
        facts = last(page).locator(".facts")
        await expect(facts).to_contain_text("first token after")
        num_tokens = len(ids_of("Good day", " to you")) + 1
        await expect(facts).to_contain_text(f"{num_tokens} tokens")
        await expect(facts).to_contain_text("tokens/s")
        shards = page.get_by_role("list", name="Shards that answered").get_by_role("listitem")
        await expect(shards.nth(0)).to_have_text("shard-1 · 1,500")
        await expect(shards.nth(1)).to_have_text("shard-2 · 3")
        await expect(shards.nth(2)).to_contain_text("by shm from gateway-0 · epoch 3")
        await expect(page.get_by_label("Message", exact=True)).to_be_focused()


async def test_where_gateways_hold_the_experts_they_are_named_and_so_is_a_change_meanwhile(browser):
    controller = FakeController(decided())
    controller.load = replace(EXPERTS, shards=())
    async with chat(browser, controller) as (page, gateway):
        run = await ask(page, gateway)
        controller.facts = replace(controller.facts, epoch=4)
        run.end()
        shards = page.get_by_role("list", name="Shards that answered").get_by_role("listitem")
        await expect(shards).to_have_text(["experts in gateway-0 · epochs 3 to 4"])


async def test_words_of_the_model_become_text_and_code_but_never_markup(browser):
    nasty = '<img src="x" onerror="alert(1)"><script>alert(2)</script>\n\n'
    async with chat(browser) as (page, gateway):
        run = await ask(page, gateway, nasty)
        run.emit(*ids_of(nasty, CODE))
        run.end()
        words = last(page).locator(".words")
        await expect(words).to_contain_text('<img src="x" onerror="alert(1)"><script>')
        await expect(words.locator("pre code")).to_have_text("print(1 < 2)")
        await expect(words.locator("strong")).to_have_text("bold")
        await expect(words.locator("li code")).to_have_text("code")
        await expect(words.locator("li").last).to_have_text("2 * 3 * 4")
        assert await words.locator("img, script, em").count() == 0
        assert await page.locator(".turn.user").locator("img, script").count() == 0
        refusal = await page.evaluate(
            "() => { try { document.body.innerHTML = '<b>'; } catch (e) { return e.name; } }"
        )
        assert refusal == "TypeError", "the browser itself refuses markup from strings"
        assert any("TrustedHTML" in problem for problem in page.problems)
        page.problems.clear()


async def test_reasoning_is_shown_apart_and_folds_when_the_answer_begins(browser):
    async with chat(browser) as (page, gateway):
        await page.get_by_label("Effort").select_option("high")
        run = await ask(page, gateway)
        run.emit(*ids_of(THINK, "Let me see."))
        reasoning = last(page).locator("details.reasoning")
        await expect(reasoning.locator(".thought")).to_have_text("Let me see.")
        await expect(reasoning).to_have_attribute("open", "")
        run.emit(*ids_of(END_THINK, "Yes."))
        await expect(last(page).locator(".words")).to_have_text("Yes.")
        await expect(reasoning).not_to_have_attribute("open", "")
        run.end()
        await expect(last(page).locator(".facts")).to_contain_text("of them reasoning")
        await reasoning.locator("summary").click()
        await expect(reasoning.locator(".thought")).to_be_visible()
        assert page.bodies[0]["reasoning_effort"] == "high"
        (await ask(page, gateway, "And?")).end()
        await expect(page.locator(".facts")).to_have_count(2)
        assert page.bodies[1]["messages"][1] == {
            "role": "assistant",
            "content": "Yes.",
            "reasoning_content": "Let me see.",
        }


async def test_tool_calls_are_shown_as_they_come_and_take_results(browser):
    async with chat(browser) as (page, gateway):
        await page.get_by_role("button", name="Settings").click()
        await page.get_by_role("button", name="Insert an example").click()
        run = await ask(page, gateway, "Weather?")
        run.emit(*ids_of(CALLS, "get_weather", ARGS, '{"city": '))
        call = last(page).locator("details.call")
        await expect(call.locator("summary")).to_have_text("Calls get_weather")
        await expect(call.locator("pre")).to_have_text('{"city":')
        run.emit(*ids_of('"Brest"}'))
        run.end()
        await expect(call.locator("pre")).to_have_text('{"city": "Brest"}')
        await page.get_by_label("Result").fill("rain")
        await page.keyboard.press("Enter")
        run = await gateway.next_run()
        run.emit(*ids_of("It rains."))
        run.end()
        await expect(last(page).locator(".words")).to_have_text("It rains.")
        called, result = page.bodies[1]["messages"][1:]
        assert [c["function"]["name"] for c in called["tool_calls"]] == ["get_weather"]
        assert result["content"] == "rain"
        assert result["tool_call_id"] == called["tool_calls"][0]["id"]
        assert page.bodies[0]["tools"][0]["function"]["name"] == "get_weather"


async def test_a_call_without_a_result_is_answered_before_the_next_question(browser):
    async with chat(browser) as (page, gateway):
        await page.get_by_role("button", name="Settings").click()
        await page.get_by_role("button", name="Insert an example").click()
        run = await ask(page, gateway, "Weather?")
        run.emit(*ids_of(CALLS, "get_weather", ARGS, "{}"))
        run.end()
        await expect(page.get_by_role("button", name="Send results")).to_be_visible()
        run = await ask(page, gateway, "Never mind")
        run.end()
        await expect(page.locator(".facts")).to_have_count(2)
        roles = [(m["role"], m["content"]) for m in page.bodies[1]["messages"][2:]]
        assert roles == [("tool", "no result"), ("user", "Never mind")]
        await expect(page.get_by_role("button", name="Send results")).to_have_count(0)


async def test_images_are_previewed_sent_and_can_be_taken_back(browser):
    png = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(png, "PNG")
    chosen = [
        {"name": name, "mimeType": "image/png", "buffer": png.getvalue()} for name in ("a", "b")
    ]
    async with chat(browser) as (page, gateway):
        await page.locator("#image-file").set_input_files(chosen)
        tray = page.get_by_role("list", name="Images to send")
        await expect(tray.get_by_role("img")).to_have_count(2)
        await page.get_by_role("button", name="Remove a").click()
        await expect(tray.get_by_role("img")).to_have_count(1)
        run = await ask(page, gateway, "What is it?")
        run.emit(*ids_of("A rectangle"))
        run.end()
        await expect(last(page).locator(".words")).to_have_text("A rectangle")
        await expect(page.locator(".turn.user").get_by_role("img", name="b")).to_be_visible()
        await expect(tray).to_be_hidden()
        [message] = page.bodies[0]["messages"]
        picture, text = message["content"]
        assert picture["image_url"]["url"].startswith("data:image/png;base64,")
        assert text == {"type": "text", "text": "What is it?"}
        assert run.request.images[0] is not None
        odd = {"name": "c.txt", "mimeType": "text/plain", "buffer": b"c"}
        await page.locator("#image-file").set_input_files([odd])
        await expect(page.get_by_role("status")).to_contain_text("c.txt is no PNG")


@pytest.mark.parametrize("by", ["button", "key"])
async def test_stop_ends_the_request_at_the_gateway_and_keeps_what_came(browser, by):
    async with chat(browser) as (page, gateway):
        run = await ask(page, gateway)
        run.emit(*ids_of("Half of"))
        await expect(last(page).locator(".words")).to_have_text("Half of")
        if by == "key":
            await page.keyboard.press("Escape")
        else:
            await page.get_by_role("button", name="Stop").click()
        await asyncio.wait_for(run.aborted.wait(), 60)
        await expect(last(page).locator(".facts")).to_contain_text("stopped by you")
        (await ask(page, gateway, "Go on")).end()
        await expect(page.locator(".facts")).to_have_count(2)
        said = [(m["role"], m["content"]) for m in page.bodies[1]["messages"]]
        assert said == [("user", "Hello"), ("assistant", "Half of"), ("user", "Go on")]


async def test_a_key_is_asked_for_and_kept_in_the_session_only(browser):
    async with chat(browser, keys=["sesame"]) as (page, gateway):
        field = page.get_by_label("API key")
        await expect(field).to_be_focused()
        await expect(page.get_by_role("status")).to_have_text("an API key is needed")
        await field.fill("sesame")
        await field.press("Tab")
        await expect(page.locator("#model")).to_have_text("fake")
        run = await ask(page, gateway)
        run.emit(*ids_of("Open"))
        run.end()
        await expect(last(page).locator(".words")).to_have_text("Open")
        kept = await page.evaluate(
            "() => [JSON.stringify(sessionStorage), localStorage.length, document.cookie]"
        )
        assert json.loads(kept[0]) == {"galerne-api-key": "sesame"}
        assert kept[1:] == [0, ""]
        assert all("401" in problem for problem in page.problems)
        page.problems.clear()


async def test_a_refusal_is_shown_and_the_question_can_be_asked_again(browser):
    async with chat(browser) as (page, gateway):
        gateway.refusal = OverloadedError("gateway-0", 7, 1.0)
        await page.get_by_label("Message", exact=True).fill("Hello")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_role("alert").filter(has_text="gateway-0")).to_be_visible()
        gateway.refusal = None
        await page.get_by_role("button", name="Try again").click()
        run = await gateway.next_run()
        run.emit(*ids_of("Now yes"))
        run.end()
        await expect(last(page).locator(".words")).to_have_text("Now yes")
        await expect(page.locator(".turn")).to_have_count(2)
        assert page.bodies[0] == page.bodies[1]
        assert len(page.problems) == 1, "the browser notes the refusal"
        page.problems.clear()


async def test_a_new_chat_ends_what_runs_and_forgets_the_conversation(browser):
    async with chat(browser) as (page, gateway):
        run = await ask(page, gateway, "First")
        await page.get_by_role("button", name="New chat").click()
        await asyncio.wait_for(run.aborted.wait(), 60)
        await expect(page.locator(".turn")).to_have_count(0)
        await expect(page.get_by_text("Ask something.")).to_be_visible()
        run = await ask(page, gateway, "Second")
        run.emit(*ids_of("Two"))
        run.end()
        await expect(last(page).locator(".facts")).to_be_visible()
        assert [m["content"] for m in page.bodies[1]["messages"]] == ["Second"]


async def test_tools_that_are_no_json_are_refused_before_anything_is_sent(browser):
    async with chat(browser) as (page, _):
        await page.get_by_role("button", name="Settings").click()
        await page.get_by_label("Tools the model may call").fill("{")
        await page.get_by_label("Message", exact=True).fill("Hello")
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("Tools are not JSON")).to_be_visible()
        assert page.bodies == []
        await expect(page.get_by_label("Message", exact=True)).to_have_value("Hello")


async def test_all_that_can_be_used_has_a_name_and_is_reached_by_the_tab_key(browser):
    async with chat(browser) as (page, _):
        await page.get_by_role("button", name="Settings").click()
        nameless = await page.evaluate(
            """() => [...document.querySelectorAll("button, input, select, textarea, a")]
                .filter((e) => e.checkVisibility())
                .filter((e) => !(e.ariaLabel || e.labels?.length || e.textContent.trim()))
                .map((e) => e.outerHTML)"""
        )
        assert nameless == []
        reached = set()
        for _step in range(30):
            await page.keyboard.press("Tab")
            reached.add(await page.evaluate("() => document.activeElement.id"))
        assert reached >= {"prompt", "send", "effort", "add-image", "new-chat", "tools", "api-key"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/cluster"])
async def test_nothing_sticks_out_of_a_phone_and_words_stand_out_in_both_schemes(
    browser, path, scheme
):
    options = {**PHONE, "color_scheme": scheme}
    async with chat(browser, path=path, **options) as (page, gateway):
        if path == "/":
            run = await ask(page, gateway, "x" * 300)
            run.emit(*ids_of("y" * 90, "\n\n```\n", "z" * 90, "\n```\n"))
            run.end()
            await expect(last(page).locator(".shards")).to_be_visible()
        wide = await page.evaluate(
            """() => [...document.querySelectorAll("html, #log, header, #composer, .card")]
                .filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.outerHTML)"""
        )
        assert wide == []
        seen = await page.evaluate(
            "() => ['color', 'backgroundColor'].map((n) => getComputedStyle(document.body)[n])"
        )
        text, ground = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in seen)
        assert text - ground > 450 if scheme == "dark" else ground - text > 450


async def test_the_cluster_page_draws_the_experts_under_its_policy(browser):
    async with chat(browser, path="/cluster") as (page, _):
        heat = page.get_by_role("img", name=re.compile("Rows by layer"))
        await expect(heat).to_be_visible()
        fills = await heat.locator("path").evaluate_all(
            "(paths) => paths.map((path) => getComputedStyle(path).fill)"
        )
        assert len(set(fills)) == len(fills) >= 3
        await expect(page.get_by_text("shard-2").first).to_be_visible()
        await page.get_by_role("link", name="Chat").click()
        await expect(page.locator("#model")).to_have_text("fake")
