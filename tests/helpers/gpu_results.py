"""Results of runs on GPUs: which GPU, driver and versions, when, and what came out."""

import importlib.metadata
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

FILE = Path(__file__).parents[2] / "deploy" / "gpu-results.json"
TESTS, BENCH = "make test-gpu", "make bench-gpu"
PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "safetensors",
    "transformers",
    "cupy-cuda13x",
    "cupy-cuda12x",
)


def machine():
    """What a result must say about where it comes from; None where there is no GPU."""
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
        "packages": {name: v for name in PACKAGES if (v := _version(name))},
        "commit": _output("git", "rev-parse", "--short", "HEAD"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write(target, result):
    """Replace the result of one make target."""
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    FILE.write_text(json.dumps({**known, target: result}, indent=2, sort_keys=True) + "\n")


def _driver():
    asked = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return asked.splitlines()[0] if asked else "unknown"


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
