"""A ``galerne`` command with ``--watch`` on a terminal of its own."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_CLOCK = re.compile(rb"\d\d:\d\d:\d\d")


def watch_cli(*arguments, times, timeout_s=60.0):
    """What is shown until so many different times of day have been, and then Ctrl-C; exit code."""
    command = [str(Path(sys.executable).parent / "galerne"), *arguments, "--watch"]
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "160", "LINES": "50"}
    process = subprocess.Popen(
        command, stdout=theirs, stderr=theirs, env=environment, preexec_fn=_hear_interrupts
    )
    os.close(theirs)
    shown, deadline_s = b"", time.monotonic() + timeout_s
    try:
        while len(set(_CLOCK.findall(shown))) < times:
            assert time.monotonic() < deadline_s, shown.decode(errors="replace")
            if select.select([ours], [], [], 0.5)[0]:
                shown += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # what it still writes, until it has closed its side
            while time.monotonic() < deadline_s and select.select([ours], [], [], 20.0)[0]:
                shown += os.read(ours, 65536)
        return shown.decode(), process.wait(20)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _hear_interrupts():
    """What a shell starts in the background ignores them, and so would what it starts itself."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
