"""One shard of the tiny checkpoint on loopback, and what it must answer."""

import pytest

from helpers.cluster import Shards
from helpers.exchange_frames import all_experts
from helpers.fixture_models import checkpoint, topology


@pytest.fixture(scope="module")
def bank():
    return all_experts()


@pytest.fixture(scope="module")
def shape():
    return topology(checkpoint().config)


@pytest.fixture(scope="module")
def shards(shape):
    shards = Shards(shape)
    yield shards
    shards.close()
