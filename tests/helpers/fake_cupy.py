"""The part of cupy that we call, as strict as version 14's: for where there is none.

The wheel of 14.2.0 was asked, with NCCL 2.29.7 and no GPU, and with a library in NCCL's place: ids
are bytes and nothing else, arguments are typed as C's, results of NCCL are raised when the call
returns, KeyError for those that cupy has no name for, an aborted communicator is a null pointer to
NCCL, and whoever drops one that was not aborted is in ``ncclCommDestroy``. No call of NCCL holds
Python's lock. Docs: docs.cupy.dev, NcclCommunicator.
"""

import operator
import threading
import types

NAMES = {
    1: "NCCL_ERROR_UNHANDLED_CUDA_ERROR",
    2: "NCCL_ERROR_SYSTEM_ERROR",
    3: "NCCL_ERROR_INTERNAL_ERROR",
    4: "NCCL_ERROR_INVALID_ARGUMENT",
    5: "NCCL_ERROR_INVALID_USAGE",
    6: "NCCL_ERROR_REMOTE_ERROR",
}
ID = bytes(range(64, 192))


class FakeNcclError(RuntimeError):
    """As ``cupy.cuda.nccl.NcclError``."""

    def __init__(self, status):
        self.status = status
        super().__init__(f"{NAMES[status]}: of the stand-in")


class FakeCupy:
    """Modules for ``sys.modules``, and what was called."""

    def __init__(self):
        self.calls = []
        self.results = {}  # of NCCL, by name of the call; 0 unless they are said
        self.num_groups = 0  # that are open
        self.devices = threading.local()
        nccl = types.ModuleType("cupy.cuda.nccl")
        nccl.available = True
        nccl.NCCL_UINT8 = 1
        nccl.NcclCommunicator = self._of_ours(NcclCommunicator)
        nccl.get_unique_id = self._unique_id
        nccl.groupStart = self._group_start
        nccl.groupEnd = self._group_end
        cupy, cuda = types.ModuleType("cupy"), types.ModuleType("cupy.cuda")
        cupy.cuda, cuda.nccl = cuda, nccl
        cuda.Device, cuda.Stream = self._of_ours(Device), self._of_ours(Stream)
        self.modules = {"cupy": cupy, "cupy.cuda": cuda, "cupy.cuda.nccl": nccl}

    def _of_ours(self, kind):
        return type(kind.__name__, (kind,), {"fake": self})

    def call(self, name, *arguments):
        """One of NCCL's, which takes the current device of the calling thread."""
        assert getattr(self.devices, "stack", None), f"{name} on no device"
        self.calls.append((name, *arguments))
        self.raise_for(name)

    def raise_for(self, name):
        if self.results.get(name):
            raise FakeNcclError(self.results[name])

    def _unique_id(self):
        self.call("unique_id")
        return ID

    def _group_start(self):
        self.call("groupStart")
        self.num_groups += 1

    def _group_end(self):
        assert self.num_groups, "a group that nobody has begun"
        self.num_groups -= 1
        self.call("groupEnd")


class Device:
    """A device as a context, of the thread."""

    fake = None

    def __init__(self, device):
        assert device == 0

    def __enter__(self):
        self.fake.devices.stack = [*getattr(self.fake.devices, "stack", []), 0]
        return self

    def __exit__(self, *_):
        self.fake.devices.stack.pop()


class Stream:
    """A new stream of the device; its end ends it on the device too."""

    fake = None

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        assert not null
        assert not ptds
        self.ptr = 1000 + sum(name == "stream" for name, *_ in self.fake.calls)
        self.fake.call("stream", non_blocking)

    def __del__(self):
        self.fake.calls.append(("end of stream", self.ptr))


class NcclCommunicator:
    """One end of a communicator."""

    fake = None

    def __init__(self, ndev, commId, rank, config=None):
        self._is_alive = False
        if type(commId) is not bytes:
            given = type(commId).__name__
            raise TypeError(f"Argument 'commId' has incorrect type (expected bytes, got {given})")
        if len(commId) != 128:
            raise ValueError(f"commId length {len(commId)} != 128.")
        self.fake.call("init", as_c(ndev), commId, as_c(rank))
        self._is_alive = True

    def send(self, sendbuf, count, datatype, peer, stream, /):
        self._move("send", sendbuf, count, datatype, peer, stream)

    def recv(self, recvbuf, count, datatype, peer, stream, /):
        self._move("recv", recvbuf, count, datatype, peer, stream)

    def _move(self, name, address, count, datatype, peer, stream):
        if as_c(count) < 0:
            raise OverflowError("can't convert negative value to size_t")
        self.fake.call(name, *map(as_c, (address, count, datatype, peer, stream)))
        self._check_alive()

    def check_async_error(self):
        self.fake.call("check")
        self._check_alive()

    def _check_alive(self):
        if not self._is_alive:
            raise FakeNcclError(4)

    def abort(self):
        if self._is_alive:
            self.fake.call("abort")
        self._is_alive = False

    def __del__(self):
        if self._is_alive:
            self.fake.calls.append(("destroy",))


def as_c(number):
    """An integer as C takes it; TypeError for a float, a tensor's storage or None."""
    return operator.index(number)
