"""A host with Ray's head and Ray's own autoscaler, whose machines are processes on that host.

``ray.cluster_utils.AutoscalingCluster`` would end every Ray on this machine, so the head is started
here; whatever it and the autoscaler start ends with the host's process ids.
"""

import json
import os
import secrets
import subprocess
import sys
import time

from helpers.netns import Hosts
from helpers.ray_hosts import OBJECT_STORE_BYTES, RAY, TESTS, wait_for

_HEAD_ID = "f" * 51 + "00000"  # that Ray's provider of such machines gives its head
_PORT = 6379
_IDLE_S = 3.0
_COMMANDS = [f"{who}setup_commands" for who in ("", "head_", "worker_")] + [
    "initialization_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
]


class AutoscalingHost:
    """Use as a context manager. ``most_by_role``: machines that can be had of each."""

    def __init__(self, **most_by_role):
        self._hosts = Hosts(1)
        try:
            self._start(most_by_role)
        except BaseException:
            self._hosts.close()
            raise

    def _start(self, most_by_role):
        host = self._hosts[0]
        path = os.pathsep.join([str(TESTS), *(p for p in sys.path if p)])
        env = os.environ | {
            "PYTHONPATH": path,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": _HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }
        config = json.dumps(_config(most_by_role))
        start = [RAY, "start", "--head", "--block", f"--port={_PORT}", "--include-dashboard=false"]
        start += ["--node-ip-address=127.0.0.1", "--num-cpus=1"]
        start += [f"--object-store-memory={OBJECT_STORE_BYTES}"]
        start += ["--autoscaling-config=/tmp/machines.json"]
        script = 'echo "$0" > /tmp/machines.json; exec "$@"'  # the host has a /tmp of its own
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        wait_for(host.popen(["sh", "-c", script, config, *start], env, **pipes))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._client = host.popen(
            [sys.executable, "-W", "ignore", "-m", "helpers.node_client"], env, **pipes
        )

    def __call__(self, command):
        """Give ``node_client.py`` a command; what there is then."""
        self._client.stdin.write(command + "\n")
        self._client.stdin.flush()
        line = self._client.stdout.readline()
        assert line, "the client has ended"
        return json.loads(line)

    def until(self, condition, timeout_s=90.0):
        """What there is, when a condition holds for it."""
        deadline = time.monotonic() + timeout_s
        while not condition(state := self("state")):
            assert time.monotonic() < deadline, f"not in time: {state}\n{self._autoscaler_log()}"
            time.sleep(0.2)
        return state

    def _autoscaler_log(self):
        return self._hosts[0].run(["tail", "-n", "60", "/tmp/ray/session_latest/logs/monitor.log"])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._hosts.close()


def _config(most_by_role):
    types = {
        role: {
            "resources": {"CPU": 1, "object_store_memory": OBJECT_STORE_BYTES},
            "labels": {"galerne.io/role": role},
            "node_config": {},
            "min_workers": 0,
            "max_workers": most,
        }
        for role, most in most_by_role.items()
    }
    head = {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "galerne-test",
        "max_workers": sum(most_by_role.values()),
        "idle_timeout_minutes": _IDLE_S / 60,
        "provider": {
            # By name it would look for an example that Ray's wheel has not.
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": f"127.0.0.1:{_PORT}",
            "head_node_id": _HEAD_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,
        },
        **{key: [] for key in _COMMANDS},
        "cluster_synced_files": [],
        "file_mounts": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {**types, "ray.head.default": head},
    }
