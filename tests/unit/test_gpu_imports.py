"""What ``make test-gpu`` runs on a GPU machine imports no more than it says it needs."""

import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Of the dependencies, those that a GPU machine must have.
NEEDED = {"torch", "numpy", "grpcio", "protobuf", "safetensors"}
MODULES = {  # names of a dependency's modules, where they are not its own
    "ray": ("ray",),
    "grpcio-health-checking": ("grpc_health",),
    "grpcio-reflection": ("grpc_reflection",),
    "grpcio-status": ("grpc_status",),
    "opentelemetry-sdk": ("opentelemetry",),
    "pillow": ("PIL",),
    "pyyaml": ("yaml",),
}
BLOCKER = textwrap.dedent(
    """
    import sys
    BLOCKED = {blocked!r}

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in BLOCKED:
                raise ImportError("not on a GPU machine: " + name)

    sys.meta_path.insert(0, Blocker())
    """
)


def blocked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = set()
    for line in project["dependencies"]:
        name = line.split("[")[0].split(">")[0].split("=")[0].split("<")[0].strip()
        if name not in NEEDED:
            found |= set(MODULES.get(name, (name.replace("-", "_"),)))
    assert {"ray", "mistral_common", "prometheus_client"} <= found
    return found


def run(code):
    program = BLOCKER.format(blocked=blocked()) + code
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False
    )


def test_the_model_the_experts_and_the_local_exchange_load_with_the_packages_of_a_gpu_machine():
    code = """
import shards.bank, shards.checkpoint.open, shards.checkpoint.synthetic
import router.exchange.local, router.model.decoder, router.model.device_experts
import router.model.runner
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_the_gpus_kernels_load_with_the_packages_of_a_gpu_machine():
    pytest.importorskip("triton", reason="Triton is not installed: pip install galerne[gpu]")
    done = run("import router.model.triton_layers, shards.kernels.gpu.experts")
    assert done.returncode == 0, done.stderr


def test_the_blocker_blocks():
    assert "not on a GPU machine: ray" in run("import ray").stderr
