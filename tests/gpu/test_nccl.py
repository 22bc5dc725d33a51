"""Real NCCL by cupy, on one GPU: a communicator of one, which sends to itself."""

import os
import subprocess
import sys

import pytest
import torch

from galerne.clock import MonotonicClock
from helpers.waiting import wait_until
from shards.nccl.availability import nccl_problem
from shards.nccl.channel import Channel
from shards.nccl.port import UNIQUE_ID_BYTES, NcclFaultError

pytestmark = pytest.mark.gpu
PROBLEM = nccl_problem()


@pytest.fixture(scope="module")
def port():
    if PROBLEM:
        pytest.skip(PROBLEM)
    from shards.nccl.cupy_port import open_port

    return open_port(trusts_network=False)


@pytest.fixture
def alone(port):
    end = port.join(1, port.unique_id(), 0)
    yield end
    end.abort()


def exchange(port, end, out, back, given):
    """What is received of rows that are sent to oneself, in one group on two streams."""
    taken = port.empty(tuple(given.shape), given.dtype)
    fence = port.fence()
    for stream in (out, back):
        stream.wait(fence)
    with port.group():
        end.send(given.data_ptr(), given.nbytes, 0, out)
        end.receive(taken.data_ptr(), taken.nbytes, 0, back)
    ends = out.record(), back.record()
    return taken, ends


def wait(ends):
    wait_until(lambda: all(end.is_done for end in ends))


def test_ids_are_bytes_and_each_is_another(port):
    first, second = port.unique_id(), port.unique_id()
    assert type(first) is bytes
    assert len(first) == UNIQUE_ID_BYTES
    assert first != second


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("num_rows", [1, 2, 64, 4096])
def test_rows_arrive_bit_for_bit(port, alone, num_rows, dtype):
    out, back = port.stream(), port.stream()
    given = torch.randn(num_rows, 4096, device=port.device).to(dtype)
    taken, ends = exchange(port, alone, out, back, given)
    wait(ends)
    assert torch.equal(taken.view(torch.uint8), given.view(torch.uint8))


def test_a_turn_waits_for_the_kernels_that_make_its_rows_and_later_ones_need_not_wait(port, alone):
    """Streams are ordered by events alone: nobody synchronises the device."""
    out, back = port.stream(), port.stream()
    weight = torch.randn(4096, 4096, device=port.device)
    for _ in range(20):
        given = torch.ones(2048, 4096, device=port.device)
        for _ in range(20):
            given = (given @ weight).sign()  # slow: were it not waited for, other bits would go
        taken, ends = exchange(port, alone, out, back, given)
        wait(ends)
        assert torch.equal(taken, given)


def test_turns_are_over_in_their_order(port, alone):
    out, back = port.stream(), port.stream()
    given = [torch.full((64, 4096), float(n), device=port.device) for n in range(30)]
    turns = [exchange(port, alone, out, back, rows) for rows in given]
    wait(turns[-1][1])
    assert all(end.is_done for _, ends in turns for end in ends)
    assert all(torch.equal(taken, rows) for (taken, _), rows in zip(turns, given, strict=True))


def test_a_channel_takes_turns_and_lets_go_of_its_memory(port, alone):
    """Its peer is the rank that it does not have: of a communicator of one, for us, itself."""
    channel, told = Channel(port, alone, 1, MonotonicClock()), []
    channel.warm_up(60.0)
    given = [torch.full((64, 4096), float(n), device=port.device) for n in range(10)]
    taken = [port.empty((64, 4096), torch.float32) for _ in given]
    for number, (out, back) in enumerate(zip(given, taken, strict=True)):
        channel.post([out], [back], [port.fence()], lambda n=number: told.append(n))

    def is_over():
        channel.poll()
        return len(told) == len(given)

    wait_until(is_over)
    assert told == list(range(10))
    assert all(map(torch.equal, taken, given))
    assert channel.overdue(1.0) == channel.check() == ""
    assert channel.num_open == 0


ALONE = """
import os, threading
from shards.nccl.cupy_port import open_port
from shards.nccl.runtime import NcclConfig, NcclRuntime
port = open_port(trusts_network=False)
runtime = NcclRuntime(port, NcclConfig(join_timeout_s=2.0))
told, said = threading.Event(), []
runtime.join(port.unique_id(), 0, lambda channel, problem: (said.append(problem), told.set()))
told.wait(60)
print(said, runtime.num_leaked, flush=True)
os._exit(0)  # the thread that waits in NCCL never ends
"""


def test_a_peer_that_never_joins_holds_up_one_thread_and_no_other(port):
    """A call of NCCL that waits does not hold Python's lock, or the deadline could not be seen."""
    command, path = [sys.executable, "-c", ALONE], os.pathsep.join(filter(None, sys.path))
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.stdout == "['the peer did not join in 2 s'] 1\n", done.stderr[-2000:]


def test_a_healthy_communicator_has_nothing_to_tell(port, alone):
    alone.check()


def test_after_an_abort_the_process_makes_another(port):
    for _ in range(3):
        end = port.join(1, port.unique_id(), 0)
        end.abort()
        with pytest.raises(NcclFaultError):
            end.check()
    end = port.join(1, port.unique_id(), 0)
    given = torch.ones(4, 64, device=port.device)
    taken, ends = exchange(port, end, port.stream(), port.stream(), given)
    wait(ends)
    assert torch.equal(taken, given)
    end.abort()


def test_cupy_is_as_strict_as_its_stand_in(port):
    import cupy.cuda.nccl as nccl

    unique_id = port.unique_id()
    with pytest.raises(TypeError):
        nccl.NcclCommunicator(1, tuple(unique_id), 0)
    with pytest.raises(ValueError, match="128"):
        nccl.NcclCommunicator(1, unique_id[:5], 0)
    aborted = nccl.NcclCommunicator(1, unique_id, 0)
    aborted.abort()
    aborted.abort()
    with pytest.raises(nccl.NcclError) as caught:
        aborted.check_async_error()
    assert caught.value.status == 4
    with pytest.raises(TypeError):
        aborted.send(0.5, 1, nccl.NCCL_UINT8, 0, 0)
    with pytest.raises(OverflowError):
        aborted.send(0, -1, nccl.NCCL_UINT8, 0, 0)


def test_an_id_that_cupy_refuses_is_a_fault_of_ours(port):
    with pytest.raises(NcclFaultError):
        port.join(1, b"short", 0)
