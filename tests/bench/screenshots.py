"""``make screenshots``: pictures of both pages, of a server that runs the embedded model.

    python -m tests.bench.screenshots [--out deploy/screenshots]

A browser asks what ``galerne demo`` asks, through the chat page; then the cluster page shows the
load of some more questions. Light and dark, wide and as a phone shows it.
"""

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from cluster.control.balancer import TURN_S
from cluster.demo.lessons.scene import png
from cluster.demo.showcase import NUMBERS, OPERANDS, PICTURE
from helpers.browser import chromium_path
from helpers.serve_process import ServeProcess

FLAGS = ("--mode", "throughput", "--shards", "4", "--http-port", "0", "--grpc-port", "0")
VIEWS = {"wide": (1180, 860), "phone": (375, 812)}
SCHEMES = ("light", "dark")
ANSWER_MS = 60_000
MAX_BYTES = 150_000
PHONE_HEIGHT_MAX = 1600  # of the cluster page; it goes on below


def ask(page, text):
    num_answers = page.locator(".facts").count()
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".facts")).to_have_count(num_answers + 1, timeout=ANSWER_MS)
    expect(page.locator(".shards")).to_have_count(num_answers + 1, timeout=ANSWER_MS)


def talk(page):
    """A sum with reasoning, a picture, a tool."""
    expect(page.locator("#model")).not_to_be_empty()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Effort").select_option("high")
    ask(page, "How much is {} plus {}?".format(*OPERANDS))
    page.locator("details.reasoning summary").click()
    page.get_by_label("Effort").select_option("none")
    picture = {"name": "shapes.png", "mimeType": "image/png", "buffer": png(PICTURE)}
    page.locator("#image-file").set_input_files([picture])
    ask(page, "What is in the picture?")


def call_a_tool(page):
    """In a conversation of its own: the small model was taught no mixture."""
    page.get_by_role("button", name="New chat").click()
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Insert an example").click()
    page.get_by_role("button", name="Settings").click()
    ask(page, "Run get weather for city Quimper. Thanks!")
    page.get_by_label("Result").fill(json.dumps({"weather": "rainy"}))
    page.get_by_role("button", name="Send results").click()
    expect(page.locator(".facts")).to_have_count(2, timeout=ANSWER_MS)
    expect(page.locator(".shards")).to_have_count(2, timeout=ANSWER_MS)


def load(address):
    """Until the balancer has looked at it: questions, four at a time."""

    def one(number):
        text = f"Compute {' + '.join(map(str, NUMBERS))} + {number}. Thank you."
        body = {"messages": [{"role": "user", "content": text}], "reasoning_effort": "high"}
        body |= {"max_tokens": 200, "seed": number}
        httpx.post(f"http://{address}/v1/chat/completions", json=body, timeout=120)
        return number

    ends_s = time.monotonic() + 2.5 * TURN_S
    with ThreadPoolExecutor(4) as threads:
        first = 0
        while time.monotonic() < ends_s:
            list(threads.map(one, range(first, first + 8)))
            first += 8


def shoot(page, name, out, *, is_whole):
    """One picture per view and scheme, with few colours: small files."""
    for view, (width, height) in VIEWS.items():
        page.set_viewport_size({"width": width, "height": height})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            page.evaluate("() => document.getElementById('log')?.scrollTo(0, 1e6)")
            path = out / f"{name}-{view}-{scheme}.png"
            page.screenshot(path=path, full_page=is_whole)
            shrink(path)


def shrink(path):
    """Few colours make a small file."""
    image = Image.open(path).convert("RGB")
    image = image.crop((0, 0, image.width, min(image.height, PHONE_HEIGHT_MAX)))
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path}  {image.width} x {image.height}  {size:,} bytes", flush=True)
    assert size < MAX_BYTES


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("deploy/screenshots"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    server = ServeProcess(*FLAGS)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium_path())
            width, height = VIEWS["wide"]
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(f"http://{server.http}/")
            talk(page)
            shoot(page, "chat", out, is_whole=False)
            call_a_tool(page)
            shoot(page, "chat-tool", out, is_whole=False)
            load(server.http)
            page.goto(f"http://{server.http}/cluster")
            shoot(page, "cluster", out, is_whole=True)
            browser.close()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
