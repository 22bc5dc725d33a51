"""Loads and nodes to place experts on."""

from itertools import chain

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

relaxed = settings(deadline=None, max_examples=60)


def create_nodes(sizes):
    """Shards by node: ``create_nodes([2, 1])`` is a0, a1 on a and b0 on b."""
    return {
        name: [f"{name}{i}" for i in range(size)]
        for name, size in zip("abcdefgh", sizes, strict=False)
    }


def shards_of(nodes):
    return list(chain(*nodes.values()))


def create_load(seed, num_layers, num_experts):
    """Mostly skewed, with ties and idle experts."""
    rng = np.random.default_rng(seed)
    return np.floor(rng.pareto(1.0, (num_layers, num_experts)) * rng.integers(0, 3))


any_nodes = st.lists(st.integers(1, 3), min_size=1, max_size=4)
equal_nodes = st.builds(lambda size, count: [size] * count, st.integers(1, 3), st.integers(1, 4))


@st.composite
def requests(draw, sizes=any_nodes):
    """Arguments that fit together."""
    sizes = draw(sizes)
    num_shards, num_experts = sum(sizes), draw(st.integers(1, 10))
    min_replicas = draw(st.integers(1, num_shards))
    least = max(num_experts * min_replicas, num_shards)
    num_physical = draw(st.integers(least, max(least, num_experts * num_shards)))
    load = create_load(draw(st.integers(0, 2**32)), draw(st.integers(1, 4)), num_experts)
    return load, create_nodes(sizes), num_physical, min_replicas
