"""The contract of all transports over real NCCL: a gateway on one GPU, two shards on others."""

from contextlib import closing

import pytest
import torch

for name in ("psutil", "prometheus_client"):
    pytest.importorskip(name, reason="whole shards need what galerne needs")

import contract.test_transport_contract as suite  # noqa: E402
from helpers.cluster import Shards  # noqa: E402
from helpers.exchange_frames import wait_up  # noqa: E402
from helpers.nccl_cluster import NcclParts, is_up, no_link_given_up  # noqa: E402
from shards.nccl.availability import nccl_problem  # noqa: E402

# The suite's tests and fixtures, with transports of ours.
globals().update(
    {name: value for name, value in vars(suite).items() if name.startswith("test_")},
    shape=suite.shape,
    bank=suite.bank,
    transport=suite.transport,
)

pytestmark = pytest.mark.gpu
PROBLEM = nccl_problem() or (
    ""
    if torch.cuda.device_count() >= 3
    else f"3 GPUs needed, there are {torch.cuda.device_count()}"
)


class GpuParts(NcclParts):
    """A GPU for every part, in the order of their start."""

    def __init__(self):
        self.num_parts = 0
        super().__init__()

    def process(self, part, **changes):
        from shards.nccl.cupy_port import CupyPort

        index, self.num_parts = self.num_parts, self.num_parts + 1
        return super().process(
            part, open_port=lambda: CupyPort(index, trusts_network=False), **changes
        )


@pytest.fixture(scope="module")
def create_transport(shape):
    if PROBLEM:
        pytest.skip(PROBLEM)
    parts = GpuParts()
    shards = Shards(shape, nccl=parts.process)
    with no_link_given_up():
        yield lambda: parts.transport(shape, shards)
    shards.close()
    parts.close()


def test_all_links_go_by_nccl(create_transport, shape):
    with closing(create_transport()) as transport:
        wait_up(transport, len(shape.shards))
        assert is_up(transport)
