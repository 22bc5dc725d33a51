"""What a command says when the disk refuses: one line, not our code."""

import os
import subprocess
import sys

from helpers.checkpoint_files import FIXTURES


def test_a_directory_that_cannot_be_made_is_one_line_with_its_name():
    source, target = FIXTURES / "tiny-hf-bf16", "/proc/galerne-nowhere"
    command = "from cluster.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "quantize", str(source), target],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    [said] = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert target in said
