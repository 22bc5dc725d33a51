"""#19 of users' complaints (the reference on serving systems): autoscaling works end to end.

Load alone makes a served cluster start shards, and its end makes it give them up again: decisions,
processes, streams and metrics of one real deployment say the same.
"""

import threading
from dataclasses import replace

import grpc
import httpx
import pytest

from cluster.planning.costs import Linear
from helpers.auto_server import decisions, embedded, serve_auto, tokens, topology
from helpers.calibrations import calibration
from helpers.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

# Predicted, not real: experts in the gateway answer first, and carry 3 answers a second.
TOKEN_S, SHARDED_STEP_S = 7e-3, 20e-3
NUM_BUSY = 4  # clients that never pause
REST_S = 2.0  # between the requests of a client that does


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    layers = embedded()["shape"].num_layers
    costs = calibration(
        layer=Linear(0.0, TOKEN_S / layers), layer_beside=Linear(SHARDED_STEP_S / layers, 0.0)
    )
    costs = replace(costs, answer=Linear(0.0, 0.0), scatter=None)
    # Guesses that are right would make answers come earlier than these costs say.
    flags = ("--speculative", "off")
    running = serve_auto(tmp_path_factory.mktemp("load"), *flags, calibration=costs)
    yield running
    running.stop()


class Clients:
    """Streams from several threads until they are told to end."""

    def __init__(self, address, num, pause_s=0.0):
        self.answers, self.failed = [], []
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(address, pause_s)) for _ in range(num)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for thread in self._threads:
            thread.join(120)

    def _run(self, address, pause_s):
        with grpc.insecure_channel(address) as channel:
            while not self._is_over.is_set():
                try:
                    self.answers.append(tokens(channel))
                except grpc.RpcError as error:
                    self.failed.append(error)
                self._is_over.wait(pause_s)


def is_local(name):
    """Whether a topology of this name has its experts in the gateway."""
    return " local " in name


def counted(server, action):
    """Decisions of a kind, as the metrics have them."""
    name = f'galerne_autoscaler_decisions_total{{action="{action}"'
    lines = httpx.get(f"http://{server.http}/metrics", timeout=60).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_load_alone_changes_a_served_cluster_and_its_end_changes_it_back_19(server):
    with grpc.insecure_channel(server.grpc) as channel:

        def settles(has_shards):
            info = topology(channel)
            return bool(info.shards) == has_shards and info.stage == "idle"

        wait_until(lambda: settles(has_shards=False), 60)
        want, known = tokens(channel), len(decisions(channel))
        with Clients(server.grpc, NUM_BUSY) as busy:
            wait_until(lambda: settles(has_shards=True), 90)
            seen = len(busy.answers)
            wait_until(lambda: len(busy.answers) > seen + 2 * NUM_BUSY, 60)
        with Clients(server.grpc, 1, REST_S) as calm:
            wait_until(lambda: settles(has_shards=False), 90)
            seen = len(calm.answers)
            wait_until(lambda: len(calm.answers) > seen, 60)
        assert not busy.failed + calm.failed
        assert all(answer == want for answer in busy.answers + calm.answers)
        made = decisions(channel)[known:]
        ups = [d for d in made if is_local(d.current) and not is_local(d.target)]
        downs = [d for d in made if is_local(d.target) and not is_local(d.current)]
        told = [(d.current, d.target, d.reason) for d in made]
        assert len(ups) == len(downs) == 1, told
        assert ups[0].number < downs[0].number
        assert ups[0].load.requests_per_s > downs[0].load.requests_per_s
        wait_until(lambda: counted(server, "change") == len(decisions(channel)))
