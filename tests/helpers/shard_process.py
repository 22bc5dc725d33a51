"""A shard of the tiny checkpoint in a process of its own, for tests that stop or kill it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


class ShardProcess:
    """Serves ``shard-INDEX`` of ``COUNT``, every expert with ``replicas`` copies."""

    def __init__(self, index, count, replicas=1):
        path = os.pathsep.join([str(TESTS), *(p for p in sys.path if p)])
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, str(index), str(count), str(replicas)],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self._process.stdout.readline().strip()
        assert self.address, "the shard did not start"

    def pause(self):
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)  # until it has stopped

    def resume(self):
        self._process.send_signal(signal.SIGCONT)

    def kill(self):
        self._process.kill()
        self.close()

    def close(self):
        self.resume()
        with self._process:  # closes its pipes, which ends it, and waits
            pass


def main():
    from helpers.cluster import Shards
    from helpers.fixture_models import checkpoint, topology

    index, count, replicas = map(int, sys.argv[1:])
    shape = topology(checkpoint().config, [f"shard-{i}" for i in range(count)], replicas=replicas)
    shards = Shards(shape, only=(shape.shards[index],))
    print(shards.address_of(shape.shards[index]), flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
