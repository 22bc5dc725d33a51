"""The part of cupy that we call, as its documentation and source have it: for where there is none.

Signed bytes of ids, positional arguments in this order, errors of NCCL, and KeyError for results
that cupy has no name for.
"""

import types


class FakeNcclError(RuntimeError):
    """As ``cupy.cuda.nccl.NcclError``."""


def modules(num_bytes=128):
    """``sys.modules`` entries, and the list of calls that they note."""
    calls = []

    class NcclCommunicator:
        def __init__(self, ndev, comm_id, rank):
            assert isinstance(comm_id, tuple)
            assert len(comm_id) == num_bytes
            assert all(-128 <= byte < 128 for byte in comm_id), "char is signed"
            calls.append(("init", ndev, comm_id, rank))

        def send(self, sendbuf, count, datatype, peer, stream):
            calls.append(("send", sendbuf, count, datatype, peer, stream))

        def recv(self, recvbuf, count, datatype, peer, stream):
            calls.append(("recv", recvbuf, count, datatype, peer, stream))

        def check_async_error(self):
            raise KeyError(6)  # ncclRemoteError has no name in cupy

        def abort(self):
            calls.append(("abort",))

    def group_end():
        calls.append(("groupEnd",))
        if calls[-2] == ("fail",):
            raise FakeNcclError("NCCL_ERROR_UNHANDLED_CUDA_ERROR")

    nccl = types.ModuleType("cupy.cuda.nccl")
    nccl.available = True
    nccl.NCCL_UINT8 = 1
    nccl.NcclCommunicator = NcclCommunicator
    nccl.get_unique_id = lambda: tuple(range(-64, 64))
    nccl.groupStart = lambda: calls.append(("groupStart",))
    nccl.groupEnd = group_end
    cupy, cuda = types.ModuleType("cupy"), types.ModuleType("cupy.cuda")
    cupy.cuda, cuda.nccl = cuda, nccl
    cuda.Device = Device
    return {"cupy": cupy, "cupy.cuda": cuda, "cupy.cuda.nccl": nccl}, calls


class Device:
    """A device as a context."""

    def __init__(self, index):
        assert index == 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None
