"""``make dashboards``: every query of every dashboard and alert, against a real Prometheus.

    python -m tests.bench.dashboards [--seconds 60] [--pictures deploy/screenshots]

Starts a server of the embedded model with keys, Prometheus beside it, and a load with all that
dashboards show: chats of several clients, an image, a key that has used what it may, wrong keys, a
shard that is killed, a change of topology. Then each query must be one, and have data, but for
those of ``MAY_BE_EMPTY``. Says what it found, and ends with 1 where that does not hold.
"""

import argparse
import base64
import json
import os
import re
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import grpc
import httpx

from cluster.demo.lessons.scene import png
from cluster.demo.showcase import PICTURE
from deploy.generate.__main__ import dashboards
from galerne.v1 import cluster_pb2, cluster_pb2_grpc, inference_pb2_grpc
from galerne.v1 import inference_pb2 as pb
from helpers.serve_process import ServeProcess
from tests.bench.dashboard_pictures import draw
from tests.bench.prometheus import Prometheus

KEYS = "key-a name=team-a\nkey-b name=team-b\nkey-few name=few requests_per_min=5\n"
ADMIN = (("authorization", "Bearer key-admin"),)
FLAGS = ("--mode", "throughput", "--shards", "4", "--http-port", "0", "--grpc-port", "0")
MAY_BE_EMPTY = {
    "galerne_tls_": "no TLS edge here",
    "galerne_engine_draft_tokens": "guesses that do not pay are not made",
    "galerne_autoscaler_objective": "nothing is promised here",
}


class Load:
    """Clients of one server, until ``stop``."""

    def __init__(self, http):
        self._url, self._is_over, self._numbers = f"http://{http}", threading.Event(), count()
        self._threads = ThreadPoolExecutor(9)
        for key in ("key-a", "key-a", "key-a", "key-b", "key-b", "key-few"):
            self._threads.submit(self._repeat, self._chat, key)
        self._threads.submit(self._repeat, self._show, "key-a")
        self._threads.submit(self._repeat, self._models, "key-wrong")
        self._threads.submit(self._repeat, self._models, "key-b")

    def _repeat(self, what, key):
        with httpx.Client(base_url=self._url, timeout=120) as client:
            client.headers["Authorization"] = f"Bearer {key}"
            while not self._is_over.is_set():
                what(client, next(self._numbers))

    def _chat(self, client, number):
        text = f"How much is {number} plus {number + 7}?"
        self._ask(client, text, number, "high" if number % 2 else "none")

    def _show(self, client, number):
        url = "data:image/png;base64," + base64.b64encode(png(PICTURE)).decode()
        image = {"type": "image_url", "image_url": {"url": url}}
        text = {"type": "text", "text": "What is in the picture?"}
        self._ask(client, [image, text], number, "none")
        self._is_over.wait(2)

    def _ask(self, client, content, number, effort):
        body = {"messages": [{"role": "user", "content": content}], "reasoning_effort": effort}
        body |= {"max_tokens": 120, "seed": number, "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            for _ in answer.iter_bytes():
                pass
        if answer.status_code == 429:
            self._is_over.wait(1)

    def _models(self, client, number):
        client.get("/v1/models")
        self._is_over.wait(1)

    def stop(self):
        self._is_over.set()
        self._threads.shutdown()


class Operator:
    """Kills a shard, and changes the topology."""

    def __init__(self, address):
        self._channel = grpc.insecure_channel(address)
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)
        self._cluster = cluster_pb2_grpc.ClusterServiceStub(self._channel)

    def kill(self, name):
        request = pb.GetServerInfoRequest()
        parts = self._stub.GetServerInfo(request, timeout=30, metadata=ADMIN).parts
        os.kill(next(part.pid for part in parts if part.id == name), signal.SIGKILL)

    def change(self, **wish):
        """Returns when it is done, or has failed."""
        request = cluster_pb2.SetTopologyRequest(**wish)
        info = self._cluster.SetTopology(request, timeout=30, metadata=ADMIN)
        while info.stage != "idle":
            time.sleep(0.5)
            request = cluster_pb2.GetTopologyRequest()
            info = self._cluster.GetTopology(request, timeout=30, metadata=ADMIN)
        print(f"changed to epoch {info.epoch} {info.last_error}")

    def close(self):
        self._channel.close()


def reason_to_be_empty(query):
    return next((why for start, why in MAY_BE_EMPTY.items() if start in query), None)


def check_dashboards(prometheus, files):
    """Prints a line each; queries that are wrong."""
    wrong = []
    for path, text in files:
        made = json.loads(text)
        panels = [panel for panel in made["panels"] if "targets" in panel]
        queries = [(p["title"], t["expr"]) for p in panels for t in p["targets"]]
        queries += [("mark", mark["expr"]) for mark in made["annotations"]["list"]]
        empty = []
        for title, query in queries:
            try:
                if not prometheus.over_time(query):
                    empty.append((title, query))
            except ValueError as error:
                wrong.append(f"{path.stem}: {title}: {error}")
        print(f"{path.stem}: {len(panels)} panels, {len(queries)} queries, {len(empty)} empty")
        for title, query in empty:
            why = reason_to_be_empty(query)
            print(f"  empty: {title}: {why or query}")
            wrong += [] if why else [f"{path.stem}: {title} has no data"]
    return wrong


def check_alerts(prometheus):
    wrong, rules = [], prometheus.rules()
    for rule in rules:
        if rule["health"] != "ok":
            wrong.append(f"{rule['name']}: {rule.get('lastError')}")
        for metric in sorted(set(re.findall(r"galerne_\w+", rule["query"]))):
            if not prometheus.over_time(metric) and reason_to_be_empty(metric) is None:
                wrong.append(f"{rule['name']}: nothing is known of {metric}")
    states = {rule["name"]: rule["state"] for rule in rules if rule["state"] != "inactive"}
    print(f"alerts: {len(rules)} rules evaluated, {states or 'none'} active at the end")
    return wrong


def say_scrapes(prometheus):
    for name, unit in (("scrape_samples_scraped", ""), ("scrape_duration_seconds", " s")):
        [(_, samples)] = prometheus.over_time(name)
        values = sorted(value for _, value in samples)
        median, most = values[len(values) // 2], values[-1]
        print(f"{name}: median {median:g}{unit}, most {most:g}{unit}, of {len(values)}")


@contextmanager
def loaded(server, seconds):
    """A server under load, which goes on; a shard was killed, and the topology changed."""
    load, operator = Load(server.http), Operator(server.grpc)
    try:
        time.sleep(seconds / 3)
        operator.kill("shard-2")
        time.sleep(seconds / 3)
        operator.change(shards=3)
        time.sleep(seconds / 3)
        yield
    finally:
        load.stop()
        operator.close()


def look(prometheus, pictures):
    """Check everything, and draw it; what is wrong."""
    files = list(dashboards())
    wrong = check_dashboards(prometheus, files) + check_alerts(prometheus)
    say_scrapes(prometheus)
    for path, text in files if pictures else ():
        draw(json.loads(text), prometheus, pictures / f"{path.stem}.png")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--pictures", type=Path, help="directory of a picture of each dashboard")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "keys").write_text(KEYS)
        (directory / "admins").write_text("key-admin name=operator\n")
        keys = ("--api-keys-file", str(directory / "keys"))
        keys += ("--admin-keys-file", str(directory / "admins"))
        server = ServeProcess(*FLAGS, *keys)
        try:
            prometheus = Prometheus(server.http, directory)
            try:
                with loaded(server, arguments.seconds):
                    wrong = look(prometheus, arguments.pictures)
            finally:
                prometheus.close()
        finally:
            server.stop()
    print(*wrong, sep="\n")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
