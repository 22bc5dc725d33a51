"""The image's steps carried out without a container engine, and its entry point started."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from helpers.image_steps import ROOT, WHEELS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def can_unshare():
    probe = ["unshare", "--mount", "--net", "true"]
    return os.geteuid() == 0 and subprocess.run(probe, check=False).returncode == 0


@pytest.mark.skipif(not shutil.which("unshare") or not can_unshare(), reason="needs root, unshare")
@pytest.mark.skipif(not os.path.isdir(WHEELS), reason=f"needs the CPU build of torch in {WHEELS}")
def test_the_steps_of_the_image_make_a_server_that_runs_as_nobody_on_a_read_only_root(tmp_path):
    done = subprocess.run(
        ["unshare", "--mount", "--fork", sys.executable, "-m", "helpers.image_steps", tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        check=False,
    )
    assert done.returncode == 0
    found = json.loads(done.stdout.splitlines()[-1])
    file, families = found["kernels"].split()
    assert file.startswith("/opt/galerne/lib")
    assert int(families) >= 1
    assert found["uid"] == "10001"
    written, *refused = found["written"].splitlines()  # what went wrong was said on stderr
    assert written == "/tmp/x"
    assert len(refused) == 2
    assert all("Read-only file system" in line for line in refused)
    assert "KV pool" in found["plan"]
    assert found["answer"] == 4
    assert found["health"].startswith("ready")
    assert found["exit"] == 0
