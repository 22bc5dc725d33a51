"""A real Prometheus beside a server: scrapes it, evaluates the alert rules, answers queries."""

import re
import subprocess
import time
from pathlib import Path

import httpx
import yaml

from cluster.ports import free_ports
from helpers.prometheus import find

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/helm/galerne/alerts/galerne.rules.yaml"
START_S = 30.0
_VARIABLES = {"$__rate_interval": "15s", "$namespace": ".*", "$job": ".*"}


class Prometheus:
    """Runs until ``close``."""

    def __init__(self, target, directory):
        program = find("prometheus")
        if program is None:
            raise SystemExit("no Prometheus: make prometheus")
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "galerne", "static_configs": [{"targets": [target]}]}],
        }
        file = directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        [port] = free_ports(1)
        self._log = (directory / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                program,
                f"--config.file={file}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        self.began_s = time.time()
        self._wait()

    def _wait(self):
        while time.time() < self.began_s + START_S:
            try:
                if self.instant("up"):
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise SystemExit("Prometheus did not start")

    def _get(self, path, **parameters):
        answer = self._client.get(f"/api/v1/{path}", params=parameters)
        body = answer.json()
        if body["status"] != "success":
            raise ValueError(f"{body['error']}: {parameters.get('query', path)}")
        return body["data"]

    def instant(self, query):
        """Samples of now, as ``(labels, value)``."""
        found = self._get("query", query=_filled(query))["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def over_time(self, query):
        """Series since the start, as ``(labels, [(seconds since then, value)])``, without gaps."""
        times = {"start": self.began_s, "end": time.time(), "step": 1}
        found = self._get("query_range", query=_filled(query), **times)["result"]
        series = [(one["metric"], _numbers(one["values"], self.began_s)) for one in found]
        return [(labels, samples) for labels, samples in series if samples]

    def rules(self):
        """All alert rules, as Prometheus has them."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def close(self):
        self._client.close()
        self._process.terminate()
        self._process.wait(30)
        self._log.close()


def _filled(query):
    return re.sub(r"\$\w+", lambda found: _VARIABLES.get(found[0], found[0]), query)


def _numbers(values, began_s):
    """Without what is no number."""
    samples = [(at_s - began_s, float(value)) for at_s, value in values]
    return [(at_s, value) for at_s, value in samples if abs(value) < float("inf")]
