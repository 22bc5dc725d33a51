"""The committed stubs are what the pinned compiler makes of the committed schemas."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = "1.74.0"  # the oldest we support: newer runtimes load its stubs, not the other way


@pytest.mark.skipif(version("grpcio-tools") != COMPILER, reason=f"needs grpcio-tools {COMPILER}")
def test_regenerated_stubs_equal_the_committed_ones(tmp_path):
    schemas = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("proto/galerne/v1/*.proto"))
    assert schemas
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-W", "ignore", "-m", "grpc_tools.protoc", "-I", "proto"]
    subprocess.run([*command, *outputs, *schemas], cwd=ROOT, check=True)
    made = {p.name: p.read_bytes() for p in tmp_path.rglob("*.py*")}
    assert len(made) == 3 * len(schemas)
    for name, content in made.items():
        assert (ROOT / "proto/galerne/v1" / name).read_bytes() == content, name
