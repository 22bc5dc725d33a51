"""What stands in for CUDA graphs catches what CUDA would, and what a replay would get wrong."""

import pytest
import torch

from helpers.triton_device import DEVICE, HAS_GPU

if HAS_GPU:
    pytest.skip("a GPU has graphs of its own", allow_module_level=True)

from helpers.fake_graphs import CaptureError, FakeCuda
from shards.kernels.gpu import rows
from shards.kernels.gpu.graphs import recorded, shared_pool


@pytest.fixture
def fake(monkeypatch):
    return FakeCuda(monkeypatch)


@torch.inference_mode()
def test_a_replay_computes_from_what_its_buffers_hold_by_then(fake):
    x, weight = torch.ones(2, 32), torch.full((32,), 2.0)
    graph, out = recorded(lambda: rows.rms_norm(x + 1, weight, 1e-6) * 3, DEVICE)
    assert out.isnan().all()  # a capture computes nothing
    for value in (1.0, -5.0):
        x.fill_(value)
        graph.replay()
        assert torch.allclose(out, torch.full_like(out, 6.0 if value > 0 else -6.0), atol=1e-4)


READS = {
    "item": lambda x: x.sum().item(),
    "cpu": lambda x: x.cpu(),
    "branch": lambda x: 1 if x[0] > 0 else 2,
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "host number": lambda x: x + torch.tensor([1.0]),
    "host zeros": lambda x: x + torch.zeros(4),
    "synchronise": lambda x: torch.cuda.synchronize(),
    "stream": lambda x: torch.cuda.current_stream().synchronize(),
}


@pytest.mark.parametrize("name", READS)
def test_the_host_takes_no_part_in_a_capture(fake, name):
    with pytest.raises(CaptureError):
        recorded(lambda: READS[name](torch.ones(4, device=DEVICE)), DEVICE)


def test_a_number_of_the_host_stays_what_it_was(fake):
    """The kind of mistake that the tests of decode steps are to find."""
    x, step = torch.ones(4), {"add": 1.0}
    graph, out = recorded(lambda: x + step["add"], DEVICE)
    step["add"] = 7.0
    graph.replay()
    assert torch.equal(out, torch.full((4,), 2.0))


def test_what_a_capture_took_must_stay(fake):
    held = [torch.ones(4)]
    graph, _ = recorded(lambda: held[0] * 2, DEVICE)
    graph.replay()
    held.clear()
    with pytest.raises(CaptureError, match="gone"):
        graph.replay()


def test_graphs_of_a_pool_spoil_what_others_computed_on_their_way_and_no_result(fake):
    x, pool, leaked = torch.ones(4), shared_pool(), []

    def leaking():
        inner = x * 5
        leaked[:] = [inner.data_ptr()]
        return inner + 1

    first, out = recorded(leaking, DEVICE, pool)
    second, other = recorded(lambda: (x * 9) * 2, DEVICE, pool)
    first.replay()
    second.replay()
    assert torch.equal(out, torch.full((4,), 6.0))
    assert torch.equal(other, torch.full((4,), 18.0))
    inner = next(t for place, t in first.recording.made.items() if place == leaked[0])
    assert inner.isnan().all()
    assert fake.num_pools == 1


def test_a_pool_ends_with_its_last_graph(fake):
    x, pool = torch.ones(4), shared_pool()
    graph, _ = recorded(lambda: x * 2, DEVICE, pool)
    del graph
    with pytest.raises(CaptureError, match="pool"):
        recorded(lambda: x * 2, DEVICE, pool)
