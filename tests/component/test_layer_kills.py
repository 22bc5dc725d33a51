"""A shard is killed at a layer boundary of a generation, at every one in turn: the tokens stay."""

import threading
from contextlib import contextmanager

import pytest

from cluster.demo import MODEL_DIRECTORY
from helpers.cluster import TOKEN, create_shm, hello
from helpers.exchange_frames import FAST, wait_until
from helpers.fixture_models import FIXTURES, exchange_over, topology
from helpers.gateways import engine, request
from helpers.shard_forks import ShardForks
from router.exchange.deadline import ExchangeConfig
from router.exchange.links import LinkState
from shards.checkpoint.open import open_checkpoint
from shards.shm.rings import ring_library

pytestmark = pytest.mark.skipif(ring_library() is None, reason="no native library")

CONFIG = ExchangeConfig(deadline_floor_s=0.1, deadline_cap_s=1.0, give_up_after_s=30.0)
NUM_SHARDS = 3
SAMPLED = {"temperature": 1.0, "repetition_penalty": 1.5, "seed": 3}
PROMPT = (1, 40, 41, 42, 43)


class Striking:
    """Experts over an exchange; strikes at a numbered begin of a layer, just before or after it."""

    def __init__(self, inner):
        self.inner, self.count, self.at, self.strike = inner, 0, None, lambda: None

    def begin(self, layer, micro_batch, x, expert_ids, adapters=None):
        is_due = self.count == self.at
        self.count += 1
        if is_due and self.at % 2 == 0:
            self.strike()
        pending = self.inner.begin(layer, micro_batch, x, expert_ids, adapters)
        if is_due and self.at % 2:
            self.strike()  # its frames are away
        return pending

    def __getattr__(self, name):
        return getattr(self.inner, name)


@contextmanager
def served(path):
    """An engine over three shard processes, every expert on two of them."""
    source = open_checkpoint(path)
    names = [f"shard-{i}" for i in range(NUM_SHARDS)]
    shape = topology(source.config, names, replicas=2)
    forks = ShardForks(path, NUM_SHARDS, 2)
    transport = create_shm(shape.shards, hello(source, shape), TOKEN, forks, FAST)
    experts = Striking(exchange_over(transport, shape, CONFIG))
    try:
        with engine(source, exchange=experts, max_num_seqs=4) as (made, collector):
            yield forks, experts, made, collector
    finally:
        forks.close()


def wait_up(experts):
    wait_until(lambda: set(experts.links.values()) == {LinkState.UP}, lambda: experts.links)


def generate(running, name, num_tokens, at=None, victim=0):
    """Tokens, and the number of layer boundaries; with ``at``, a shard dies at that one."""
    forks, experts, made, collector = running
    wait_up(experts)
    threads = []

    def strike():
        forks.kill(victim)
        threads.append(threading.Thread(target=forks.start, args=(victim,)))
        threads[-1].start()

    experts.count, experts.at, experts.strike = 0, at, strike
    made.submit(request(name, PROMPT, max_tokens=num_tokens, **SAMPLED)).result(60)
    tokens = collector.tokens(name)
    for thread in threads:
        thread.join(60)
    assert at is None or threads, "the strike did not come"
    return tokens, experts.count


def kill_at_every_boundary(path, num_tokens, every=1):
    with served(path) as running:
        want, num_boundaries = generate(running, "still", num_tokens)
        assert num_boundaries >= num_tokens * 2
        for at in range(0, num_boundaries, every):
            got, _ = generate(running, f"killed-{at}", num_tokens, at, at % NUM_SHARDS)
            assert got == want, f"killed at boundary {at}"
        return num_boundaries, len(set(want))


def test_a_kill_at_layer_boundaries_changes_no_token_of_the_tiny_model():
    kill_at_every_boundary(FIXTURES / "tiny-native-bf16", 4)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_kill_at_every_layer_boundary_changes_no_token_of_the_demo_model(record_property):
    num_boundaries, num_distinct = kill_at_every_boundary(MODEL_DIRECTORY, 24)
    record_property("num_boundaries", num_boundaries)
    record_property("num_distinct_tokens", num_distinct)
    print(f"{num_boundaries} boundaries, {num_distinct} distinct tokens of 24")
