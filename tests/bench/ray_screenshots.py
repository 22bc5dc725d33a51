"""``make ray-screenshots``: Ray's own pages about a server that runs the embedded model.

    python -m tests.bench.ray_screenshots [--out deploy/screenshots]

Actors, Serve and, where a Prometheus is in PATH (apt-get install prometheus), its graph of the
numbers that the controller gives to Ray, scraped by the configuration that Ray writes. Ray's own
metrics page embeds Grafana, which neither Debian nor PyPI nor npm has, and is empty without.
"""

import argparse
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx
from playwright.sync_api import sync_playwright

from cluster.ports import free_ports
from helpers.browser import chromium_path
from helpers.ray_pages import dashboard_of
from helpers.serve_process import ServeProcess
from helpers.waiting import wait_until
from tests.bench.screenshots import FLAGS, load, shrink

COOKIE = "ray-authentication-token"
SIZE = {"width": 1400, "height": 820}
GRAPHS_SIZE = {"width": 1400, "height": 1494}  # of two: its header would lie over a longer page
SETTLE_MS = 4000
PAGES = {
    "ray-actors": ("actors", "galerne-"),
    "ray-serve": ("serve", "Frontend"),
}
GRAPH = (
    ("g0", "ray_galerne_tokens_per_s"),
    ("g1", "ray_galerne_requests_running"),
)


@contextmanager
def prometheus(config):
    """Its URL, while it scrapes Ray."""
    port = free_ports(1)[0]
    with tempfile.TemporaryDirectory() as data:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={data}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=error",
            ]
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


def graph(page, url, out):
    """Of what the questions have left behind."""

    def has_come():
        try:
            found = httpx.get(f"{url}/api/v1/query", params={"query": GRAPH[0][1]}).json()
        except httpx.HTTPError:
            return False
        return bool(found["data"]["result"])

    wait_until(has_come, 60)
    queries = {g: quote(f"sum by (deployment) ({name})") for g, name in GRAPH}  # else long legends
    shown = (f"{g}.expr={query}&{g}.tab=0&{g}.range_input=2m" for g, query in queries.items())
    query = "&".join(shown)
    page.set_viewport_size(GRAPHS_SIZE)
    page.goto(f"{url}/graph?{query}")
    page.wait_for_timeout(SETTLE_MS)
    page.screenshot(path=out / "ray-metrics.png")
    shrink(out / "ray-metrics.png")


def pages(page, dashboard, out):
    for name, (route, text) in PAGES.items():
        page.goto(f"{dashboard}/#/{route}")
        page.get_by_text(text).first.wait_for()
        page.wait_for_timeout(SETTLE_MS)
        page.screenshot(path=out / f"{name}.png")
        shrink(out / f"{name}.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("deploy/screenshots"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    server = ServeProcess(*FLAGS, "--dashboard-port", str(free_ports(1)[0]))
    try:
        dashboard, token_file = dashboard_of(server)
        token = token_file.read_text()
        config = token_file.parent / "r/session_latest/metrics/prometheus/prometheus.yml"
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium_path())
            context = browser.new_context(viewport=SIZE)
            context.add_cookies([{"name": COOKIE, "value": token, "url": dashboard}])
            page = context.new_page()
            if shutil.which("prometheus") is None:
                load(server.http)
                pages(page, dashboard, out)
            else:
                with prometheus(config) as url:
                    load(server.http)
                    pages(page, dashboard, out)
                    time.sleep(20)  # a scrape after the load, so that the graph comes down
                    graph(page, url, out)
            browser.close()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
