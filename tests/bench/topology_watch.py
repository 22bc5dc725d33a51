"""What a server's topology was and why, over time, seen from outside."""

import threading
import time
from dataclasses import dataclass

import grpc

from galerne.v1 import cluster_pb2
from tests.bench.calibrating import candidate_of, name_of

_EVERY_S = 0.5


@dataclass(frozen=True)
class Shape:
    """A topology, from the time on at which it was first seen."""

    since_unix_s: float
    name: str


class TopologyWatch:
    """Looks at a server in a thread, until closed."""

    def __init__(self, served):
        self.shapes = []
        self._served = served
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._is_over.wait(_EVERY_S):
            try:
                name = name_of(candidate_of(self._served.topology()))
            except grpc.RpcError:
                continue  # the next look tells
            if not self.shapes or self.shapes[-1].name != name:
                self.shapes.append(Shape(time.time(), name))

    def close(self):
        self._is_over.set()
        self._thread.join(60)


class ReasonWatch:
    """Asks the autoscaler at given times, in a thread: why is the topology as it is?

    A decision that changes nothing is not kept by the server, so it is asked for while it is true.
    """

    def __init__(self, served, times_unix_s):
        self.reasons = []
        self._served = served
        self._times = sorted(times_unix_s)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        for time_s in self._times:
            if self._is_over.wait(max(0.0, time_s - time.time())):
                return
            request = cluster_pb2.ExplainRequest()
            decision = self._served.cluster.Explain(request, timeout=30).decision
            self.reasons.append(_plain(decision))

    def close(self):
        self._is_over.set()
        self._thread.join(60)


def decisions_of(served):
    """All decisions that the server keeps, oldest first, as plain values; None: it tells none."""
    found = []
    while True:
        last = found[-1]["number"] if found else 0
        request = cluster_pb2.ListDecisionsRequest(after=last)
        try:
            some = served.cluster.ListDecisions(request, timeout=30).decisions
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:  # there is no autoscaler
                return None
            raise
        new = [_plain(decision) for decision in some if decision.number > last]
        if not new:
            return found
        found += new


def _plain(decision):
    names = ("number", "time_s", "action", "reason", "binding", "is_urgent", "current", "target")
    told = {name: getattr(decision, name) for name in names}
    return told | {"sensitivity": decision.sensitivity}
