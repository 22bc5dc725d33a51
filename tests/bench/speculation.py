"""``make bench-speculation``: the demo model with guesses against without, 1, 4 and 16 streams.

    python -m tests.bench.speculation [--rounds 5] [--sources eagle ngram] [--calibration FILE]
        [--shards 2 --transport grpc]

One engine, its experts beside it or in shards; who guesses is changed between two runs of the same
conversations, and all ways go round in every round, so that a change of the machine touches all
alike. Printed: median and range of tokens per second over those of "off" in the same round, share
of right guesses, and what the cost model of ``galerne doctor`` predicts from that share for experts
beside the engine. Every stream is compared with that of "off".
"""

import argparse
import os
import statistics
import time
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from random import Random

import torch

from cluster.cli.calibrated import find_stored
from cluster.demo import EAGLE_DIRECTORY, MODEL_DIRECTORY
from cluster.demo.lessons.curriculum import draw_document
from cluster.demo.training.render import demo_renderer
from cluster.planning.candidate import Candidate
from cluster.planning.step import StepWork, step_parts
from galerne.clock import MonotonicClock
from galerne.errors import ConfigError
from galerne.topology import LinkTransport, Mode
from helpers.fixture_models import local_experts
from helpers.gateways import engine, request
from router.engine.speculation.acceptance import expected_tokens
from router.engine.speculation.ngram import NgramSource
from router.engine.speculation.policy import SpeculationConfig
from router.engine.speculation.port import NO_DRAFTING
from router.engine.speculation.speculation import Speculation
from router.model.eagle import EagleHead
from router.model.eagle_source import EagleSource
from shards.checkpoint.eagle import open_eagle
from shards.checkpoint.open import open_checkpoint
from tests.bench.engines import OURS, Process
from tests.bench.worker import exchange_with

STREAMS = (1, 4, 16)
DEPTHS = (1, 2, 3, 4)
MOST = 64  # tokens of an answer
THREADS = os.cpu_count() or 1
REQUESTS = {1: 24, 4: 64, 16: 128}  # of a run


def conversations(number, seed):
    """Prompts of conversations as the model was taught them, drawn anew: answers are its own."""
    rng, found = Random(f"bench/{seed}"), []
    while len(found) < number:
        rendered = demo_renderer().render(draw_document(rng, 1.0))
        if not rendered.pictures:
            found.append(rendered.ids[: rendered.is_target.index(True)])
    return found


class Ways:
    """Off, and every source at every depth and left to itself, on one engine."""

    def __init__(self, made, model, source, names):
        self._engine = made
        self.drafting = {"off": NO_DRAFTING}
        head = open_eagle(EAGLE_DIRECTORY, source.config)
        sizes = model.cache.num_blocks, model.cache.block_size, torch.bfloat16, THREADS
        for name in names:
            for depth in (*DEPTHS, None):
                guesses = NgramSource()
                if name == "eagle":
                    eagle = EagleHead(head, model.decoder, *sizes)
                    guesses = EagleSource(model, eagle, source.config.eos_token_id)
                config = SpeculationConfig(
                    num_draft_tokens=depth or max(DEPTHS), is_auto=depth is None
                )
                way = f"{name} {'auto' if depth is None else depth}"
                self.drafting[way] = Speculation(guesses, config, MonotonicClock())

    def choose(self, way):
        def swap():
            self._engine.drafting = self.drafting[way]

        self._engine.between_steps(swap).result(10)


def run(made, collector, prompts, numbers, sampling):
    """(tokens per second, all streams)."""
    names = [f"r{next(numbers)}" for _ in prompts]
    started = time.perf_counter()
    for name, prompt in zip(names, prompts, strict=True):
        asked = {"max_tokens": MOST, "ignore_eos": False} | sampling
        made.submit(request(name, prompt, **asked))
    streams = [collector.tokens(name, timeout=600) for name in names]
    seconds = time.perf_counter() - started
    return sum(map(len, streams)) / seconds, streams


def predicted(stored, num_streams, drafting, depth, has_head):
    """Speed over "off" by the cost model: a step of B sequences has B (1 + c k) rows.

    c is the share of sequences that a source has guesses for. The head is one layer and an output
    head per guess, the layer of the first one follows the step.
    """
    covered = drafting.coverage
    candidate = Candidate(
        mode=Mode.LATENCY, transport=LinkTransport.LOCAL, gateways=1, shards=1, replicas=1,
        micro_batches=1, max_num_seqs=16, max_batched_tokens=256,
    )  # fmt: skip

    def step_s(rows):
        work = StepWork(num_decoding=rows, context=100)
        parts = step_parts(stored.shape, stored.calibration, candidate, work)
        around = stored.calibration.gateway.step.seconds(num_streams)
        return sum(parts.values()) - parts["answer"] - parts["step"] + around

    costs = stored.calibration.gateway
    layer_s, head_s = costs.layer.seconds(num_streams), costs.head.seconds(num_streams)
    drafting_s = depth * (layer_s + head_s) if has_head else 0.0
    with_s = step_s(num_streams * (1 + covered * depth)) + drafting_s
    tokens = 1 + covered * (expected_tokens(drafting.acceptance.rates, depth) - 1)
    return tokens * step_s(num_streams) / with_s


@contextmanager
def experts(num_shards, kind):
    """How an engine reaches its experts, by checkpoint."""
    if not num_shards:
        yield lambda source: local_experts(source, torch.bfloat16, THREADS)
        return
    arguments = ("tests.bench.shard", MODEL_DIRECTORY)
    shards = [Process(*arguments, i, num_shards, threads=1, **OURS) for i in range(num_shards)]
    try:
        yield lambda source: exchange_with(source, kind, [s.said["address"] for s in shards])
    finally:
        for shard in shards:
            shard.close()


def measure(rounds, names, sampling, stored, exchange_of):
    """Print the table."""
    source = open_checkpoint(MODEL_DIRECTORY)
    models = []

    def keep(model):
        models.append(model)
        return NO_DRAFTING

    for num_streams in STREAMS:
        shape = {"max_num_seqs": num_streams, "max_waiting": 256, "num_blocks": 1024}
        settings = {"threads": THREADS, "enable_prefix_cache": False}
        settings["exchange"] = exchange_of(source)
        with engine(source, drafting=keep, **settings, **shape) as (made, collector):
            ways = Ways(made, models[-1], source, names)
            measure_streams(made, collector, ways, num_streams, rounds, sampling, stored)


def measure_streams(made, collector, ways, num_streams, rounds, sampling, stored):
    speeds, numbers = {way: [] for way in ways.drafting}, count()
    for number in range(-1, rounds):  # the first round warms up, and teaches "auto"
        prompts = conversations(REQUESTS[num_streams], number)
        order = list(ways.drafting)
        Random(number).shuffle(order)
        heard = {}
        for way in order:
            ways.choose(way)
            speed, heard[way] = run(made, collector, prompts, numbers, sampling)
            if number >= 0:
                speeds[way].append(speed)
        for way, streams in heard.items():
            assert streams == heard["off"], f"{way} said something else"
    base = speeds["off"]
    print(f"\n{num_streams} stream(s): off {statistics.median(base):.0f} tokens/s")
    for way, drafting in ways.drafting.items():
        ratios = [s / b for s, b in zip(speeds[way], base, strict=True)]
        if way == "off":
            continue
        text = f"{statistics.median(ratios):.2f}x [{min(ratios):.2f}-{max(ratios):.2f}]"
        share = drafting.num_accepted / max(drafting.num_drafted, 1)
        said = ""
        name, depth = way.split()
        if stored is not None and depth != "auto":
            expected = predicted(stored, num_streams, drafting, int(depth), name == "eagle")
            said = f"  predicted {expected:.2f}x"
        print(f"  {way:10} {text:22} right {share:4.0%} of {drafting.num_drafted:6}{said}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sources", nargs="+", default=["eagle", "ngram"])
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--shards", type=int, default=0, help="0: experts beside the engine")
    parser.add_argument("--transport", choices=["shm", "grpc"], default="grpc", help="of shards")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    try:
        stored = find_stored(None, None, None, args.calibration)
    except ConfigError as error:
        print(f"no prediction: {error}")
        stored = None
    sampling = {"temperature": args.temperature, "seed": 1}
    with experts(args.shards, args.transport) as exchange_of:
        measure(
            args.rounds, args.sources, sampling, stored if not args.shards else None, exchange_of
        )


if __name__ == "__main__":
    main()
