"""Child processes that must not outlive us."""

from __future__ import annotations

import sys
from pathlib import Path

# Becomes a program that the kernel ends with us (PR_SET_PDEATHSIG, SIGKILL), as Ray's own are.
_ENDS_WITH_US = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
)


def ends_with_us(program: str | Path, *arguments: str) -> list[str]:
    """The command that runs a program until the thread that starts it ends, at the latest."""
    return [sys.executable, "-I", "-S", "-c", _ENDS_WITH_US, str(program), *arguments]
