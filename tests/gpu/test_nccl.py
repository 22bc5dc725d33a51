"""Real NCCL by cupy, on one GPU: a communicator of one, which sends to itself."""

import pytest
import torch

from shards.nccl.availability import nccl_problem
from shards.nccl.port import NcclFaultError

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
    for end in ends:
        end.event.synchronize()
        assert end.is_done


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


def test_an_id_that_cupy_refuses_is_a_fault_of_ours(port):
    with pytest.raises(NcclFaultError):
        port.join(1, b"short", 0)
