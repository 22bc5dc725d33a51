"""Free memory of GPUs on other nodes, asked by Ray's tasks; the driver's tool is a stand-in."""

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

ASK = """
from dataclasses import replace
from cluster.gpu_free import free_gpu_bytes_on
from cluster.nodes import alive_nodes
from cluster.run_directory import RunDirectory
from cluster.runtime import start_local_ray
from galerne.errors import ConfigError

run = RunDirectory()
runtime = start_local_ray(run, num_cpus=2, namespace="galerne")
try:
    [node] = alive_nodes()
    for gpus in (0, 2):
        try:
            print("free", free_gpu_bytes_on([replace(node, num_gpus=gpus)]), flush=True)
        except ConfigError as error:
            print("refused", error, flush=True)
finally:
    runtime.leave()
    run.close()
"""


def ask(directory, tool):
    """What the driver hears where ``nvidia-smi`` is this shell script."""
    program = directory / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{tool}\n")
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{directory}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if line.startswith(("free", "refused"))]


def test_the_gpu_with_least_memory_counts_and_a_node_without_one_is_refused(tmp_path):
    none, free = ask(tmp_path, "echo 81000; echo 79000")
    assert free == f"free {79000 << 20}"
    assert none.startswith("refused device=cuda: no node of the Ray cluster that may hold it")


def test_a_node_whose_driver_does_not_answer_is_named(tmp_path):
    _, refused = ask(tmp_path, "echo broken >&2; exit 9")
    assert refused.startswith("refused device=cuda: node ")
    assert "nvidia-smi tells of no GPU on this machine" in refused
