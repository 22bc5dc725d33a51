"""A headless Chromium of this machine, and pages that must behave."""

import shutil
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
_PATIENCE_MS = 30_000


def chromium_path():
    """Skips where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    return found


@asynccontextmanager
async def chromium():
    """A running browser."""
    driver = pytest.importorskip("playwright.async_api")
    driver.expect.set_options(timeout=_PATIENCE_MS)
    path = chromium_path()
    async with driver.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def watched_page(browser, url, **options):
    """A page in a fresh profile. At its end: no error was logged, no other host was asked.

    ``page.problems``: what the console said is wrong; a test takes out what it expects.
    ``page.bodies``: of the requests for answers.
    """
    context = await browser.new_context(**options)
    context.set_default_timeout(_PATIENCE_MS)
    page = await context.new_page()
    page.problems, page.bodies, asked = [], [], []

    def on_request(request):
        asked.append(request.url)
        if request.url.endswith("/v1/chat/completions"):
            page.bodies.append(request.post_data_json)

    def on_console(message):
        if message.type in ("error", "warning"):
            page.problems.append(message.text)

    page.on("request", on_request)
    page.on("console", on_console)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    try:
        await page.goto(url)
        yield page
        ours = urlsplit(url).netloc
        assert {urlsplit(one).netloc for one in asked if not one.startswith("data:")} == {ours}
        assert page.problems == [], page.problems
    finally:
        await context.close()
