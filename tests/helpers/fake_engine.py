"""A scheduler under a fake model, and a check of everything that must hold on every step."""

from collections import Counter
from itertools import product
from random import Random

import numpy as np

from router.engine.block_hash import HashContext
from router.engine.block_pool import NULL_BLOCK, BlockPool
from router.engine.request import (
    FinishReason,
    GenerationRequest,
    ImageInput,
    SamplingParams,
)
from router.engine.scheduler import Scheduler
from router.engine.scheduler_config import SchedulerConfig
from router.engine.sequence import SequenceState

VOCAB = 5
BLOCK = 4
CONTEXT = HashContext(model_fingerprint="tiny", numerics_profile="ref", mla_form="absorbed")


def create_request(request_id="r", prompt=range(10), images=(), priority=0, **sampling):
    params = SamplingParams(**{"max_tokens": 4, **sampling})
    return GenerationRequest(
        request_id=request_id,
        prompt_token_ids=tuple(prompt),
        sampling=params,
        images=tuple(images),
        priority=priority,
    )


def create_image(offset, content):
    pixels = np.zeros((3, 0, 0), dtype=np.float32)
    return ImageInput(
        pixels=pixels, offset=offset, grid_width=1, grid_height=2, content_hash=bytes([content])
    )


def prefix_rows(token_ids, images):
    """KV rows of all positions: like real ones, functions of everything up to them."""
    row, rows = 0, []
    for position, token_id in enumerate(token_ids):
        seen = [i.content_hash[0] for i in images if 0 <= position - i.offset < i.num_tokens]
        row = hash((row, token_id, *seen))
        rows.append(row)
    return rows


def expected_tokens(request, choice):
    """What the fake model generates, without scheduler, blocks or cache."""
    tokens = []
    for _ in range(request.sampling.max_tokens):
        known = (*request.prompt_token_ids, *tokens)
        tokens.append((prefix_rows(known, request.images)[-1] + choice) % VOCAB)
    return tokens


def guesser(seed, most, wrong):
    """Guesses of up to ``most`` tokens; a share of them is not what the model says."""
    rng = Random(seed)

    def guess(sequence):
        tokens = expected_tokens(sequence.request, sequence.choice)
        ahead = tokens[sequence.num_generated :][:most]
        return tuple(t + 1 if rng.random() < wrong else t for t in ahead)

    return guess


class FakeEngine:
    """Runs plans on a fake model, and checks on every step what must hold on every step."""

    def __init__(self, num_blocks=33, **overrides):
        overrides = {"block_size": BLOCK, "max_model_len": 100, **overrides}
        self.config = SchedulerConfig(**overrides)
        self.pool = BlockPool(num_blocks, self.config.block_size)
        self.scheduler = Scheduler(self.config, self.pool, lambda _: CONTEXT)
        self.rows = {}
        self.sequences = []
        self.is_disturbed = False
        self.guess = lambda sequence: ()  # guesses at its next tokens
        self.num_accepted = []  # by the newest plan

    def add(self, request):
        added = self.scheduler.add(request)
        self.sequences += added
        return added

    def preempt(self, request_id):
        self.is_disturbed = True
        return self.scheduler.preempt(request_id)

    def schedule(self):
        drafts = {sequence: self.guess(sequence) for sequence in self.scheduler.decoding()}
        return self.scheduler.schedule(drafts)

    def fail_step(self):
        self.is_disturbed = True
        self.run_model(self.schedule())

    def step(self):
        plan = self.schedule()
        self.check(plan)
        for sequence in self.scheduler.advance(plan, self.run_model(plan), self.num_accepted):
            if sequence.num_tokens >= sequence.max_num_tokens:
                self.scheduler.finish(sequence, FinishReason.LENGTH)
        return plan

    def steps(self, num_steps):
        return [self.step() for _ in range(num_steps)][-1]

    def finish_all(self):
        plans = []
        while self.scheduler.has_work:
            plans.append(self.step())
            assert len(plans) < 2000, "no progress"
        assert self.pool.num_used == 0
        assert all(s.is_finished for s in self.sequences)
        self.check_tokens()
        return plans

    def run_model(self, plan):
        sampled, self.num_accepted = [], []
        for sequence, start, num_tokens, samples, draft in plan.entries:
            published = {self.pool.lookup(key) for key in sequence.keys}
            places = list(product(sequence.blocks, range(self.pool.block_size)))
            rows = prefix_rows([*sequence.token_ids, *draft], sequence.request.images)
            for position in range(start, start + num_tokens):
                assert places[position][0] not in {NULL_BLOCK, *published}
                assert self.pool.num_refs(places[position][0]) == 1, "wrote a shared block"
                self.rows[places[position]] = rows[position]
            held = [self.rows[place] for place in places[: start + num_tokens]]
            assert held == rows[: start + num_tokens], "blocks hold this sequence's own prefix"
            if samples:
                drawn = [(row + sequence.choice) % VOCAB for row in held[-1 - len(draft) :]]
                right = [token == guess for token, guess in zip(drawn, draft, strict=False)]
                accepted = (*right, False).index(False)
                sampled.append(drawn[accepted])
                self.num_accepted.append(accepted)
        return sampled

    def check(self, plan):
        running = [s for s in self.sequences if s.state is SequenceState.RUNNING]
        waiting = [s for s in self.sequences if not s.is_finished and s not in running]
        assert self.scheduler.num_running == len(running) <= self.config.max_num_seqs
        assert self.scheduler.num_waiting == len(waiting)
        assert running or not waiting, "work is waiting and nothing runs"
        assert all(not s.blocks and s.num_computed == 0 for s in waiting)
        assert set(plan.preempted) <= set(waiting)
        assert Counter(e.sequence for e in plan.entries) == Counter(running)
        num_tokens = sum(e.num_tokens for e in plan.entries)
        assert plan.num_tokens == num_tokens <= self.config.max_batched_tokens
        if not self.is_disturbed and len({s.request.priority for s in self.sequences}) == 1:
            # Choices may be passed by while they wait for the blocks of their prompt.
            everyone = (*(e.sequence for e in plan.entries), *waiting)
            order = [s.arrival for s in everyone if s.leader is None]
            assert order == sorted(order), "who came first runs first"
        for sequence, start, num_tokens, samples, draft in plan.entries:
            assert start == sequence.num_computed
            assert 1 <= num_tokens <= self.config.max_chunk_tokens
            assert samples == (start + num_tokens - len(draft) == sequence.num_tokens)
            assert samples or not draft
            assert sequence.num_tokens + len(draft) < sequence.max_num_tokens or not draft
            num_needed = -(-(start + num_tokens) // self.pool.block_size)
            assert len(sequence.blocks) == num_needed or self.is_disturbed
        holders = Counter(block for s in running for block in s.blocks)
        assert self.pool.num_used == len(holders)
        for sequence in running:
            num_full = sequence.num_computed // self.pool.block_size
            for index, block in enumerate(sequence.blocks):
                assert self.pool.num_refs(block) == holders[block]
                assert holders[block] == 1 or index < num_full, "only complete blocks are shared"

    def check_tokens(self):
        for sequence in self.sequences:
            assert 0 <= sequence.num_cached < sequence.num_prompt
            expected = expected_tokens(sequence.request, sequence.choice)
            if sequence.finish_reason is FinishReason.ABORT:
                expected = expected[: sequence.num_generated]
            assert sequence.token_ids[sequence.num_prompt :] == expected
