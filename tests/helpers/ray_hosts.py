"""A Ray cluster over ``netns`` hosts, started as pods would start it, and a server on its head."""

import json
import os
import secrets
import select
import subprocess
import sys
import time
from pathlib import Path

from helpers.namespaces import signal_inside
from helpers.netns import Hosts
from helpers.serve_process import ServeProcess

TESTS = Path(__file__).parents[1]
CLIENT = str(Path(__file__).with_name("stream_client.py"))
RAY = str(Path(sys.executable).parent / "ray")
_GCS_PORT = 6379
OBJECT_STORE_BYTES = 100 << 20
_STARTED = "Ray runtime started."
_WAIT_FOR_NODES = """
import sys, time, ray
ray.init("auto", log_to_driver=False, logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) != int(sys.argv[1]):
    time.sleep(0.2)
"""
# Ray's patience with a silent node: dead within 5 s instead of a minute.
_HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class RayHosts:
    """Hosts with a Ray node each, the head on the first. Use as a context manager."""

    def __init__(self, count, num_cpus=2, cores=None):
        """``cores``: the one core that each host may use; unset: any."""
        self._num_cpus, self._cores = num_cpus, cores
        path = os.pathsep.join([str(TESTS), *(p for p in sys.path if p)])
        self.env = os.environ | _HEALTH_CHECKS
        self.env |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        self.env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.hosts = Hosts(count)
        try:
            wait_for(self._start_ray(self.hosts[0]))
            for started in [self._start_ray(host) for host in self.hosts[1:]]:
                wait_for(started)
        except BaseException:
            self.hosts.close()
            raise

    def reboot(self, host):
        """Start a worker that has crashed, as a replacement with the same address."""
        host.boot()
        wait_for(self._start_ray(host))

    def _start_ray(self, host):
        """Start a Ray node on a host; one of a worker is started again whenever it ends."""
        head = self.hosts[0]
        is_head = host is head
        where = (
            ["--head", f"--port={_GCS_PORT}", "--include-dashboard=false"]
            if is_head
            else [f"--address={head.address}:{_GCS_PORT}"]
        )
        command = [RAY, "start", "--block", *where, f"--node-ip-address={host.address}"]
        command += [f"--num-cpus={self._num_cpus}", f"--labels=galerne-test-host={host.name}"]
        command += [f"--object-store-memory={OBJECT_STORE_BYTES}"]
        if not is_head:
            command = ["sh", "-c", 'while :; do "$@"; sleep 0.5; done', "supervisor", *command]
        command = [*self._pinned(host), *command]
        return host.popen(command, self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def _pinned(self, host):
        if self._cores is None:
            return ()
        return ("taskset", "--cpu-list", str(self._cores[self.hosts.index(host)]))

    def serve(self, *flags, **options):
        """``galerne serve`` on the head."""
        return ServeProcess(
            *("--address", "auto", "--insecure-network", "--http-port", "0", "--grpc-port", "0"),
            *flags,
            popen=self.hosts[0].popen,
            send_signal=signal_inside,
            env=self.env,
            **options,
        )

    def client(self, *arguments):
        """``stream_client.py`` on the head: every line of its output as a value, as it comes."""
        command = [sys.executable, CLIENT, *map(str, arguments)]
        process = self.hosts[0].popen(command, self.env, stdout=subprocess.PIPE, text=True)
        yield from map(json.loads, process.stdout)
        assert process.wait(60) == 0

    def wait_for_nodes(self, count):
        """Return when so many Ray nodes live."""
        waiting = [sys.executable, "-W", "ignore", "-c", _WAIT_FOR_NODES, str(count)]
        self.hosts[0].run(waiting, self.env)

    def host_of(self, part):
        """Where a part of a server listens."""
        address = part["address"].rpartition(":")[0]
        return next(host for host in self.hosts if host.address == address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.hosts.close()


def wait_for(process, text=_STARTED, timeout=120.0):
    """Return when a process has printed a text."""
    said, deadline = "", time.monotonic() + timeout
    while text not in said:
        readable, _, _ = select.select([process.stdout], [], [], 1.0)
        chunk = os.read(process.stdout.fileno(), 65536).decode() if readable else None
        assert chunk != "", f"ended: {said}"
        assert time.monotonic() < deadline, f"not up: {said}"
        said += chunk or ""
