"""A part whose start fails once, in a deployment that wants it, on a real Ray."""

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

SCRIPT = """
import sys, time
from pathlib import Path
from types import SimpleNamespace

from cluster.run_directory import RunDirectory
from cluster.runtime import start_local_ray

run = RunDirectory()
runtime = start_local_ray(run, num_cpus=2, namespace="galerne")
try:
    import ray
    from cluster import launch, start_again
    from cluster.config import load_config
    from cluster.control.standing import Standing, Wanted
    from cluster.presets import PresetInputs, build_topology

    start_again._FIRST_S = 0.2
    tries = Path(sys.argv[1])
    topology = build_topology(
        PresetInputs(
            config=load_config(None, {"shards": 2}),
            num_layers=1, num_experts=4, num_cores=1, num_nodes=1,
        )
    )

    class Part:
        def __init__(self, spec, part, first, environment):
            with tries.open("a") as file:
                file.write(part + " ")
            if part == "shard-1" and tries.read_text().split().count(part) < 3:
                raise RuntimeError("its checkpoint is not there yet")

        def name(self):
            return "lives"

    class Controller:
        async def wanted_parts(self, known=None):
            return Wanted(
                parts=dict.fromkeys(topology.parts, topology), standing=Standing(topology=topology)
            )

        async def roster(self):
            return SimpleNamespace(parts=())

        async def ended(self, part):
            pass

    launch.ExpertShard = launch.Gateway = Part
    spec = SimpleNamespace(
        topology=topology, is_auto=False, spread=None, gateway_threads=1, shard_threads=1,
        orphan_after_s=None, device="cpu", shard_device="cpu", scaling=None,
        actor_name=lambda part: "test-" + part,
    )
    deployment = launch.Deployment(spec, ray.remote(Controller).remote())
    deployment._follower.start()
    end_s, told = time.monotonic() + 90, "it does not come"
    while time.monotonic() < end_s and told != "lives":
        try:
            told = ray.get(ray.get_actor("test-shard-1", "galerne").name.remote(), timeout=5)
        except (ValueError, ray.exceptions.RayError):
            time.sleep(0.2)
    print("shard-1:", told, "after", tries.read_text().split().count("shard-1"), flush=True)
    print("shard-0: starts", tries.read_text().split().count("shard-0"), flush=True)
    deployment._is_stopping.set()
    deployment._follower.join(20)
finally:
    runtime.leave()
    run.close()
"""


def test_a_part_that_cannot_start_at_first_is_started_again_while_it_is_wanted(tmp_path):
    """Ray repeats a process that dies, but no constructor that raises: the driver has to."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "tries")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("shard-")]
    assert told == ["shard-1: lives after 3", "shard-0: starts 1"], done.stderr[-2000:]
