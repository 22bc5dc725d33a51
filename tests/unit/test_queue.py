"""What a queue costs: a fluid that flows off."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.planning.load import Queue

rates = st.floats(0.1, 1e3)
queues = st.builds(
    Queue,
    waiting=st.integers(0, 10_000),
    requests_per_s=rates,
    drain_s=st.just(10.0),
    horizon_s=st.floats(1, 1000),
)


def waited(queue, capacity, steps=20_000):
    """The area under the queue, summed in small steps; after the horizon nobody comes."""
    left, area, step_s = float(queue.waiting), 0.0, queue.horizon_s / steps
    for _ in range(steps):
        area += left * step_s
        left = max(0.0, left + (queue.requests_per_s - capacity) * step_s)
    area += left**2 / (2 * capacity)
    return area / (queue.waiting + queue.requests_per_s * queue.horizon_s)


@given(queues, rates, st.floats(1, 10))
def test_more_capacity_never_makes_a_queue_wait_longer(queue, capacity, factor):
    assert queue.mean_wait_s(capacity * factor) <= queue.mean_wait_s(capacity) * (1 + 1e-9)


@pytest.mark.parametrize("capacity", [8.0, 10.0, 11.0, 14.0, 40.0])
def test_the_mean_wait_is_the_area_under_the_queue(capacity):
    queue = Queue(waiting=300, requests_per_s=10.0, drain_s=10.0, horizon_s=60.0)
    assert queue.mean_wait_s(capacity) == pytest.approx(waited(queue, capacity), rel=0.01)


@given(queues, st.floats(1.001, 10))
def test_nobody_waits_without_a_queue_where_the_load_is_carried(queue, factor):
    empty = Queue(0, queue.requests_per_s, queue.drain_s, queue.horizon_s)
    assert empty.mean_wait_s(queue.requests_per_s * factor) == 0
