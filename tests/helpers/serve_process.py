"""``galerne serve`` as its own process, as a user starts it."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from galerne.v1 import inference_pb2 as pb

READY = re.compile(r"ready: (\S+) on https?://(\S+) and grpcs?://(\S+) ")


class ServeProcess:
    """Started, and ready when the constructor returns."""

    def __init__(self, *flags, timeout=150.0, popen=subprocess.Popen, send_signal=None, **options):
        """``popen`` and ``send_signal``: on another host."""
        command = [str(Path(sys.executable).parent / "galerne"), "serve", *flags]
        self._send_signal = send_signal or subprocess.Popen.send_signal
        self.process = popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
        self.output = ""
        deadline = time.monotonic() + timeout
        while (ready := READY.search(self.output)) is None:
            readable, _, _ = select.select([self.process.stdout], [], [], 1.0)
            chunk = os.read(self.process.stdout.fileno(), 65536).decode() if readable else "-"
            self.output += chunk if chunk != "-" else ""
            if not chunk or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"not ready:\n{self.output}")
        self.model, self.http, self.grpc = ready.groups()
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, timeout=60.0):
        """SIGTERM, as a supervisor sends it; the exit code."""
        if self.process.poll() is None:
            self._send_signal(self.process, signal.SIGTERM)
        try:
            self.process.wait(timeout)
        finally:
            self.process.stdout.close()
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait(10)
        return self.process.returncode


def run_cli(*arguments, timeout=60):
    """A ``galerne`` command; its completed process."""
    command = [str(Path(sys.executable).parent / "galerne"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def part(stub, name):
    """What a server says of one of its parts."""
    parts = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=20).parts
    return next(p for p in parts if p.id == name)
