"""A part of the cluster in a process of its own, for tests that stop or kill it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


class PartProcess:
    """Runs a module that prints its address and ends when its input does."""

    def __init__(self, file, *args):
        path = os.pathsep.join([str(TESTS), *(p for p in sys.path if p)])
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", file, *map(str, args)],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.address = self._process.stdout.readline().strip()
        assert self.address, "the part did not start"

    @property
    def is_running(self):
        return self._process.poll() is None

    def pause(self):
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)  # until it has stopped

    def resume(self):
        self._process.send_signal(signal.SIGCONT)

    def go_on(self):
        """A part that holds itself up goes on."""
        print(file=self._process.stdin, flush=True)

    def kill(self):
        self._process.kill()
        self.close()

    def close(self):
        if self.is_running:
            self.resume()
        with self._process:  # closes its pipes, which ends it, and waits
            pass


def serve_until_input_ends(address, on_line=lambda: None):
    """What the module does once its part listens; ``on_line`` is called for ``go_on``."""
    print(address, flush=True)
    for _ in sys.stdin:
        on_line()
    os._exit(0)
