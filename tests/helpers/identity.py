"""What a request's computation was, as one digest: tokens, logits to the bit, latents."""

import hashlib
import time
from contextlib import contextmanager, nullcontext

import numpy as np
import torch

from helpers.cluster import remote_exchange
from helpers.fixture_models import local_experts
from helpers.gateways import engine, request
from router.exchange.grpc_transport import GrpcTransport
from shards.kernels.formats import WeightFormat

NUM_PROMPTS = 20
MAX_TOKENS = 16
SAMPLINGS = {
    "greedy": {"temperature": 0.0},
    "seeded": {"temperature": 0.8, "top_p": 0.95, "top_k": 50, "seed": 1234},
}


class Probe:
    """Around the step runner: hashes what each sampled token was drawn from."""

    def __init__(self, inner):
        self.inner = inner
        self.hashes = {}

    def run_plan(self, step, plan):
        logits = self.inner.run_plan(step, plan)
        cache = self.inner.model.cache
        last_layer = len(cache._data) - 1
        row = 0
        for entry in plan.entries:
            if not entry.samples:
                continue
            sequence = entry.sequence
            digest = self.hashes.setdefault(sequence.request_id, {})
            top = np.argsort(-logits[row], kind="stable")[:5]
            digest[sequence.num_tokens] = top.tobytes() + logits[row][top].tobytes()
            if sequence.num_generated + 1 == sequence.request.sampling.max_tokens:
                stop = entry.start + entry.num_tokens
                latents = cache.sequence(last_layer, sequence.blocks, stop)
                digest["latents"] = latents.contiguous().view(torch.uint8).numpy().tobytes()
            row += 1
        return logits

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def digest(self, request_id, tokens):
        """SHA-256 over ids, top-5 logits of every position, and last-layer latents."""
        sha = hashlib.sha256(np.asarray(tokens, dtype=np.int64).tobytes())
        for position in sorted(k for k in self.hashes[request_id] if k != "latents"):
            sha.update(self.hashes[request_id][position])
        sha.update(self.hashes[request_id]["latents"])
        return sha.hexdigest()


def prompts(vocab_size):
    """Prompts of 3 to 90 tokens; some share a long prefix."""
    rng = np.random.default_rng(4)
    shared = rng.integers(20, vocab_size, 48).tolist()
    made = []
    for i in range(NUM_PROMPTS):
        own = rng.integers(20, vocab_size, int(rng.integers(3, 90))).tolist()
        made.append(tuple(shared + own[:30] if i % 4 == 0 else own))
    return made


@contextmanager
def variant_engine(
    source, *, shards=0, create=GrpcTransport, path=None, held=WeightFormat.BF16, **settings
):
    """An engine with its probe; ``shards`` 0 is local, else ``create`` makes the transport."""
    probes = []

    def wrap(inner):
        probes.append(Probe(inner))
        return probes[0]

    if shards:
        wire = remote_exchange(shards, create=create, source=source, path=path, held=held)
    else:
        threads = settings.get("threads", 1)
        local = local_experts(source, torch.bfloat16, threads, held)
        wire = nullcontext((local, None))
    with wire as (exchange, hosts), engine(source, exchange=exchange, wrap=wrap, **settings) as e:
        yield *e, probes[0], hosts


def digests(source, sampling, *, together, disturb=None, salt=None, **variant):
    """Digest of every prompt under one variant."""
    found = []
    with variant_engine(source, **variant) as (made, collector, probe, hosts):
        requests = [
            request(f"p{i}", p, max_tokens=MAX_TOKENS, cache_salt=salt or f"s{i}", **sampling)
            for i, p in enumerate(prompts(source.config.vocab_size))
        ]
        for r in requests:
            made.submit(r).result(60)
            if not together:
                collector.wait(r.request_id)
        if disturb is not None:
            disturb(made, collector, hosts)
        for r in requests:
            found.append(probe.digest(r.request_id, collector.tokens(r.request_id)))
    return found


def preempt_some(made, collector, hosts):
    """Force every third request to recompute in the middle."""
    for i in range(0, NUM_PROMPTS, 3):
        collector.wait(f"p{i}", tokens=4)
        made.preempt(f"p{i}").result(60)


class KillOne:
    """Stops a shard in the middle, starts it anew, measures the pause that requests saw."""

    def __init__(self, down_s=0.3):
        self.down_s = down_s
        self.pause_s = None

    def __call__(self, made, collector, hosts):
        collector.wait("p0", tokens=3)
        victim = hosts.shape.shards[-1]
        before = made.num_steps
        started = time.monotonic()
        hosts.stop(victim)
        time.sleep(self.down_s)
        hosts.start(victim)
        while made.num_steps <= before + 1 and made._scheduler.has_work:
            time.sleep(0.001)
        self.pause_s = time.monotonic() - started
