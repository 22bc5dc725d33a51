"""NCCL without a GPU, in one process: CPU memory, and the semantics that our links rely on.

As NCCL's: to join blocks until all have joined; operations of a communicator run in the order of
their calls, whatever their streams, and on each of their streams in its order; a group is one
operation, which starts when it is the first of its communicator and of all its streams; a send ends
with its receive, when both operations run, in order; what does not match waits for ever, and so
does whatever comes after it; an abort ends one end alone, without a word to the peer. An id is good
for one communicator, each rank joins it once, and not two of one GPU; a group whose caller fails is
called for all the same, as far as it had come.

Sources: NCCL's user guide, "CUDA stream semantics" (several streams in one group), "Group calls",
"Creating a communicator" (one GPU twice), "Error handling and communicator abort".
"""

import ctypes
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from shards.nccl.port import NcclFaultError

OF_TORCH = ("query", "fence", "empty")


class FakeFabric:
    """What joins the devices of several ports."""

    def __init__(self):
        self.changed = threading.Condition()
        self.ports = []
        self.mismatches = []  # (bytes sent, bytes wanted) that met
        self.num_bytes = 0  # that were moved
        self._rings = {}  # by id, ends by rank
        self._is_closed = False

    def port(self):
        """NCCL of one more process."""
        self.ports.append(FakePort(self))
        return self.ports[-1]

    def close(self):
        """Let go of threads that wait to join."""
        with self.changed:
            self._is_closed = True
            self.changed.notify_all()

    def new_id(self):
        with self.changed:
            unique_id = (len(self._rings) + 1).to_bytes(128, "little")
            self._rings[unique_id] = {}
            return unique_id

    def join(self, size, unique_id, end):
        with self.changed:
            assert type(unique_id) is bytes
            assert unique_id in self._rings, "an id that NCCL has made"
            ring = self._rings[unique_id]
            assert end.rank not in ring, "a rank joins once"
            if not 0 <= end.rank < size:
                raise NcclFaultError("invalid argument: rank")
            ring[end.rank] = end
            end.ring = ring
            self.changed.notify_all()
            self.changed.wait_for(lambda: len(ring) == size or self._is_closed)
            if len(ring) < size:
                raise NcclFaultError("the fabric was closed")
            if len({each.port for each in ring.values()}) < size:
                raise NcclFaultError("invalid usage: duplicate GPU")

    def progress(self):
        """Run what can run; the condition is held."""
        has_moved = True
        while has_moved:
            streams = [stream for port in self.ports for stream in port.streams]
            has_moved = any([stream.progress() for stream in streams])
            ends = {id(e): e for ring in self._rings.values() for e in ring.values()}
            has_moved |= any([end.progress() for end in ends.values()])
        self.changed.notify_all()


@dataclass(eq=False)
class Operation:
    end: object
    streams: list
    sends: deque = field(default_factory=deque)  # (address, bytes, peer)
    receives: deque = field(default_factory=deque)

    @property
    def is_running(self):
        firsts = [self.end.queue, *(stream.queue for stream in self.streams)]
        return all(queue and queue[0] is self for queue in firsts)

    @property
    def is_done(self):
        return not self.sends and not self.receives

    def leave(self):
        for queue in (self.end.queue, *(stream.queue for stream in self.streams)):
            if self in queue:
                queue.remove(self)


class FakeEvent:
    def __init__(self, port, is_done=False):
        self.port, self.has_come = port, is_done

    @property
    def is_done(self):
        self.port.called("query")
        return self.has_come

    def come(self):
        """Let it happen, where a test makes it wait."""
        with self.port.fabric.changed:
            self.has_come = True
            self.port.fabric.progress()


class FakeStream:
    def __init__(self, port):
        self._port = port
        self.queue = deque()  # operations, and pairs of (is it waited for, event)

    def wait(self, event):
        assert event.port is self._port, "an event of our device"
        self._put((True, event))

    def record(self):
        event = FakeEvent(self._port)
        self._put((False, event))
        return event

    def _put(self, entry):
        with self._port.fabric.changed:
            self.queue.append(entry)
            self._port.fabric.progress()

    def progress(self):
        has_moved = False
        while self.queue and isinstance(self.queue[0], tuple):
            is_waited_for, event = self.queue[0]
            if is_waited_for and not event.has_come:
                break
            event.has_come = True
            self.queue.popleft()
            has_moved = True
        return has_moved


class FakeEnd:
    """One rank of a communicator."""

    def __init__(self, port, rank):
        self.port, self.rank, self.ring = port, rank, {}
        self.queue = deque()
        self.is_aborted = False
        self.error = ""  # found out by ``check``

    def send(self, address, num_bytes, peer, stream):
        self._call("send", (address, num_bytes, peer), stream)

    def receive(self, address, num_bytes, peer, stream):
        self._call("receive", (address, num_bytes, peer), stream)

    def _call(self, kind, what, stream):
        address, num_bytes, peer = what
        assert type(address) is type(num_bytes) is int
        assert num_bytes >= 0
        self.port.called(kind)
        if self.is_aborted:
            raise NcclFaultError("called after the abort")
        if peer not in self.ring:
            raise NcclFaultError("invalid argument: peer")
        self.port.put(self, kind, what, stream)

    def check(self):
        if self.error or self.is_aborted:
            raise NcclFaultError(self.error or "checked after the abort")

    def abort(self):
        self.port.abort_gate.wait()
        with self.port.fabric.changed:
            assert not self.is_aborted, "aborted twice"
            self.is_aborted = True
            for operation in list(self.queue):
                operation.leave()
            self.port.num_aborted += 1
            self.port.fabric.progress()

    def progress(self):
        operation = self.queue[0] if self.queue else None
        if operation is None or not operation.is_running:
            return False
        has_moved = False
        while operation.sends:
            address, num_bytes, peer = operation.sends[0]
            other = self.ring.get(peer)
            there = other.queue[0] if other is not None and other.queue else None
            if there is None or not there.is_running or not there.receives:
                break
            to, wanted, source = there.receives[0]
            assert source == self.rank
            if wanted != num_bytes:  # the kernels would hang or write where they must not
                if (num_bytes, wanted) not in self.port.fabric.mismatches:
                    self.port.fabric.mismatches.append((num_bytes, wanted))
                break
            ctypes.memmove(to, address, num_bytes)
            self.port.fabric.num_bytes += num_bytes
            operation.sends.popleft()
            there.receives.popleft()
            has_moved = True
            if there.is_done:
                there.leave()
        if operation.is_done:
            operation.leave()
            has_moved = True
        return has_moved


class FakePort:
    """Implements ``NcclPort``; a test may make its calls late, stuck or wrong."""

    def __init__(self, fabric):
        self.fabric = fabric
        self.device = torch.device("cpu")
        self.streams = []
        self.ends = []
        self.threads = {}  # names of threads by kind of call
        self.num_aborted = 0
        self.fences = None  # a list: fences wait until the test lets them come
        self.join_gate, self.abort_gate, self.call_gate = (threading.Event() for _ in range(3))
        for gate in (self.join_gate, self.abort_gate, self.call_gate):
            gate.set()
        self.failing_join = ""
        self.failing = set()  # kinds of calls that CUDA fails
        self._group = threading.local()

    def called(self, kind):
        self.threads.setdefault(kind, set()).add(threading.current_thread().name)
        if kind in self.failing:
            error = RuntimeError if kind in OF_TORCH else NcclFaultError  # as our port for cupy
            raise error(f"CUDA error in {kind}")

    def unique_id(self):
        return self.fabric.new_id()

    def join(self, size, unique_id, rank):
        self.called("join")
        self.join_gate.wait()
        if self.failing_join:
            raise NcclFaultError(self.failing_join)
        end = FakeEnd(self, rank)
        self.fabric.join(size, unique_id, end)
        self.ends.append(end)
        return end

    @contextmanager
    def group(self):
        self.called("group")
        assert getattr(self._group, "calls", None) is None, "a group in a group"
        self._group.calls = []
        try:
            yield
        finally:
            self._end_group()

    def _end_group(self):
        calls, self._group.calls = self._group.calls, None
        ends = {id(end): end for end, *_ in calls}
        while not self.call_gate.wait(0.005):  # an abort pulls a stuck call out
            if any(end.is_aborted for end in ends.values()):
                raise NcclFaultError("aborted meanwhile")
        for end in ends.values():
            self._launch(end, [call[1:] for call in calls if call[0] is end])

    def put(self, end, kind, what, stream):
        if getattr(self._group, "calls", None) is None:
            self._launch(end, [(kind, what, stream)])
        else:
            self._group.calls.append((end, kind, what, stream))

    def _launch(self, end, calls):
        operation = Operation(end, [])
        for kind, what, stream in calls:
            (operation.sends if kind == "send" else operation.receives).append(what)
            if stream not in operation.streams:
                operation.streams.append(stream)
        with self.fabric.changed:
            for queue in (end.queue, *(stream.queue for stream in operation.streams)):
                queue.append(operation)
            self.fabric.progress()

    def stream(self):
        self.called("stream")
        with self.fabric.changed:
            self.streams.append(FakeStream(self))
            return self.streams[-1]

    def fence(self):
        self.called("fence")
        if self.fences is None:
            return FakeEvent(self, is_done=True)
        self.fences.append(FakeEvent(self))
        return self.fences[-1]

    def empty(self, shape, dtype):
        self.called("empty")
        return torch.full(shape, float("nan")).to(dtype)
