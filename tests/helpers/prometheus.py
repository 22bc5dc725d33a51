"""Prometheus and its tool, from Debian: installed, or where ``make prometheus`` puts them."""

import shutil
from pathlib import Path

_EXTRACTED = Path(__file__).parents[2] / ".venv/prometheus/usr/bin"


def find(name):
    """Path of a program; None: it is not to be had."""
    return shutil.which(name) or shutil.which(name, path=str(_EXTRACTED))
