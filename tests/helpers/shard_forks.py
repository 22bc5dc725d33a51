"""Shards in processes that start in a fraction of a second: forked from one that has all imports.

Runs as a process of its own. Each line of its input, ``INDEX``, starts ``shard-INDEX`` in a child,
which answers with a line ``INDEX PID ADDRESS``. All end with the input.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from helpers.part_process import TESTS


class ShardForks:
    """Shards ``shard-0`` to ``shard-(COUNT-1)`` of a checkpoint; also the address book of links."""

    def __init__(self, path, count, replicas):
        search = os.pathsep.join([str(TESTS), *(p for p in sys.path if p)])
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, str(path), str(count), str(replicas)],
            env=os.environ | {"PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lock = threading.Lock()
        self._living = {}  # index -> (pid, address)
        for index in range(count):
            self.start(index)

    def start(self, index):
        """Start a shard again; returns when it listens."""
        with self._lock:
            print(index, file=self._process.stdin, flush=True)
            told, pid, address = self._process.stdout.readline().split()
            assert int(told) == index
            self._living[index] = int(pid), address

    def kill(self, index):
        """SIGKILL; its address stays known, as in life."""
        os.kill(self._living[index][0], signal.SIGKILL)

    def address_of(self, shard):
        found = self._living.get(int(shard.rpartition("-")[2]))
        return None if found is None else found[1]

    def close(self):
        for pid, _ in self._living.values():
            os.kill(pid, signal.SIGKILL)
        with self._process:
            pass


def main():
    import helpers.cluster
    from helpers.fixture_models import topology
    from shards.checkpoint.open import open_checkpoint

    path, count, replicas = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    names = [f"shard-{i}" for i in range(count)]
    shape = topology(open_checkpoint(path).config, names, replicas=replicas)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children that were killed leave no zombies
    for line in sys.stdin:
        index = int(line)
        if os.fork():
            continue
        shards = helpers.cluster.Shards(shape, path=path, only=[names[index]])
        print(index, os.getpid(), shards.address_of(names[index]), flush=True)
        while True:
            signal.pause()


if __name__ == "__main__":
    main()
