"""Which tokens the next step computes, and in which blocks. No torch, no clock, no randomness.

A step mixes decode tokens and chunks of prefill: a sequence simply has known tokens that are not
computed yet. Running sequences come first, in order of arrival, then waiting ones by priority and
arrival. When blocks run out, the latest arrival gives its blocks back, to compute them again later,
before all that has not run yet: no priority displaces what runs.

    plan = scheduler.schedule()
    sampled = run(plan)                    # one token per entry with ``samples``
    for sequence in scheduler.advance(plan, sampled):
        if is_done(sequence):
            scheduler.finish(sequence, FinishReason.STOP)

If the step failed, schedule anew: before ``advance`` nothing of a plan counts as computed. Guesses
at the next tokens (``drafts``) get what tokens and blocks nobody else wants of the step.
"""

from __future__ import annotations

import bisect
from collections import abc, deque
from collections.abc import Callable
from operator import attrgetter

from galerne.errors import ConfigError, InvalidRequestError, OverloadedError
from router.engine.block_hash import HashContext
from router.engine.block_pool import BlockPool
from router.engine.plan import StepEntry, StepPlan
from router.engine.request import FinishReason, GenerationRequest
from router.engine.scheduler_config import SchedulerConfig
from router.engine.sequence import Sequence, SequenceState
from router.engine.servable import check_servable
from router.engine.speculation.grant import NO_DRAFTS, Drafts, grant_drafts

_MAX_RESUMED = 1 << 62


class Scheduler:
    """Queue, running set and block tables of one engine; not thread-safe.

    Attributes:
        num_preemptions: Sequences that lost their blocks so far, by ``preempt`` too.
        prefix_query_tokens: Tokens looked up in the prefix cache, at every admission.
        prefix_hit_tokens: Those of them that were found.
        num_begun: Sequences that were admitted, each once; not those that ran elsewhere before.
        begun_prompt_tokens: Tokens of their prompts that were not found.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        pool: BlockPool,
        hash_context_for: Callable[[GenerationRequest], HashContext],
    ) -> None:
        if pool.block_size != config.block_size:
            problem = f"must equal the pool's {pool.block_size}"
            raise ConfigError("scheduler.block_size", config.block_size, problem)
        self.num_preemptions = self.num_begun = self.begun_prompt_tokens = 0
        self.prefix_query_tokens = self.prefix_hit_tokens = 0
        self._config = config
        self._pool = pool
        self._hash_context_for = hash_context_for
        self._waiting: deque[Sequence] = deque()  # by ``turn``
        self._running: list[Sequence] = []  # by arrival
        self._unfinished: dict[str, list[Sequence]] = {}
        self._num_arrivals = 0
        self._num_resumed = 0
        self._plan: StepPlan | None = None  # the newest, until advanced

    def reconfigure(self, config: SchedulerConfig) -> None:
        """Other limits from the next step on.

        What runs beyond a lower limit runs on; nothing is admitted until it has ended.

        Raises:
            ConfigError: The block size differs.
        """
        if config.block_size != self._config.block_size:
            problem = f"must stay {self._config.block_size}"
            raise ConfigError("scheduler.block_size", config.block_size, problem)
        self._config = config

    @property
    def num_waiting(self) -> int:
        """Sequences without blocks: new and preempted ones."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Sequences that hold blocks."""
        return len(self._running)

    @property
    def requests(self) -> list[GenerationRequest]:
        """Those that have not ended."""
        return [choices[0].request for choices in self._unfinished.values()]

    @property
    def has_work(self) -> bool:
        """Whether ``schedule`` has anything to plan."""
        return bool(self._running or self._waiting)

    def add(self, request: GenerationRequest) -> list[Sequence]:
        """Queue all open choices of a request, or none.

        One that ran elsewhere before goes to the head of the queue, which has always room for it:
        it was admitted then.

        Raises:
            InvalidRequestError: The id is in use, or the request can never be served here.
            OverloadedError: The queue has no room for the choices now.
        """
        max_num_tokens = self.check(request)
        limit = self._config.max_waiting
        if not request.resumed and self.num_waiting + request.sampling.n > limit:
            raise OverloadedError("request queue", limit, self._config.retry_after_s)
        is_cached = self._config.enable_prefix_cache
        context = self._hash_context_for(request) if is_cached else None
        sequences: list[Sequence] = []
        num_shared = len(request.prompt_token_ids) // self._config.block_size
        for choice in request.open_choices:
            generated = request.resumed[choice].token_ids if request.resumed else ()
            sequence = Sequence(
                request=request,
                choice=choice,
                arrival=self._next_arrival(is_resumed=bool(request.resumed)),
                token_ids=[*request.prompt_token_ids, *generated],
                num_prompt=len(request.prompt_token_ids),
                max_num_tokens=max_num_tokens,
                hash_context=context,
                leader=sequences[0] if sequences else None,
                keys=sequences[0].keys[:num_shared] if sequences else [],
            )
            sequence.name_full_blocks(self._config.block_size)
            sequences.append(sequence)
        for sequence in sequences:
            self._wait_in_order(sequence)
        self._unfinished[request.request_id] = sequences.copy()
        return sequences

    def abort(self, request_id: str, choice: int | None = None) -> list[Sequence]:
        """Finish one choice, or all, with ``ABORT``; returns those that had not ended yet."""
        aborted = [
            sequence
            for sequence in self._unfinished.get(request_id, ())
            if choice is None or sequence.choice == choice
        ]
        for sequence in aborted:
            self.finish(sequence, FinishReason.ABORT)
        return aborted

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """End a sequence and free its blocks.

        Raises:
            ValueError: It has ended already.
        """
        was_running = sequence.state is SequenceState.RUNNING
        sequence.move_to(SequenceState.FINISHED)
        sequence.finish_reason = reason
        if was_running:
            self._running.remove(sequence)
            self._free(sequence)
        else:
            self._waiting.remove(sequence)
        siblings = self._unfinished[sequence.request_id]
        siblings.remove(sequence)
        if not siblings:
            del self._unfinished[sequence.request_id]

    def preempt(self, request_id: str) -> list[Sequence]:
        """Take the blocks of a request's running choices, as a full pool would. For tests."""
        choices = self._unfinished.get(request_id, ())
        victims = [s for s in choices if s.state is SequenceState.RUNNING]
        for sequence in victims:
            self._preempt(sequence)
        return victims

    def decoding(self) -> list[Sequence]:
        """Running sequences with one known token to compute, and generated ones: may be guessed."""
        return [s for s in self._running if s.num_pending == 1 and s.num_generated > 0]

    def schedule(self, drafts: Drafts = NO_DRAFTS) -> StepPlan:
        """Plan the next step: admit, grow block tables, preempt, grant ``drafts`` of ``decoding``.

        Every running sequence gets at least one token or is preempted. The plan has entries
        whenever ``has_work``.
        """
        preempted: list[Sequence] = []
        entries = self._plan_running(preempted)
        if not preempted:  # else the blocks just freed would go to a later arrival
            budget = self._config.max_batched_tokens - sum(e.num_tokens for e in entries)
            entries.extend(self._admit(budget))
            if drafts:
                entries = grant_drafts(entries, drafts, self._config, self._pool, self._reserved())
        self._plan = StepPlan(
            entries=tuple(entries),
            preempted=tuple(preempted),
            num_tokens=sum(e.num_tokens for e in entries),
            num_samples=sum(e.samples for e in entries),
        )
        return self._plan

    def advance(
        self,
        plan: StepPlan,
        sampled_token_ids: abc.Sequence[int],
        num_accepted: abc.Sequence[int] | None = None,
    ) -> list[Sequence]:
        """Take note that the model ran ``plan``.

        Args:
            plan: What ``schedule`` returned last.
            sampled_token_ids: The last drawn of each entry with ``samples``, in the plan's order.
            num_accepted: Of the same entries, guesses that were drawn before it; unset: none.

        Returns:
            The sequences that got a token, in the plan's order. Entries whose sequence was aborted
            or preempted since are passed over, and their tokens dropped.

        Raises:
            ValueError: The plan is not the newest or was advanced before, or the tokens' number
                is not ``plan.num_samples``.
        """
        if plan is not self._plan:
            raise ValueError("plan is not the newest, or was advanced before")
        if len(sampled_token_ids) != plan.num_samples:
            raise ValueError(f"{plan.num_samples} tokens needed, got {len(sampled_token_ids)}")
        self._plan = None
        drawn = zip(sampled_token_ids, num_accepted or [0] * plan.num_samples, strict=True)
        extended: list[Sequence] = []
        for sequence, start, num_tokens, samples, draft in plan.entries:
            token_id, accepted = next(drawn) if samples else (None, 0)
            if sequence.state is not SequenceState.RUNNING:
                continue
            sequence.num_computed = start + num_tokens - len(draft) + accepted
            if token_id is not None:
                sequence.token_ids += (*draft[:accepted], token_id)
                extended.append(sequence)
            if draft:
                self._roll_back(sequence)
            self._publish_full_blocks(sequence)
        return extended

    def check(self, request: GenerationRequest) -> int:
        """The most tokens that a sequence of the request may reach.

        Raises:
            InvalidRequestError: The id is in use, or the request can never be served here.
        """
        if request.request_id in self._unfinished:
            raise InvalidRequestError("request_id", "is in use by a running request")
        return check_servable(request, self._config, self._pool.num_usable)

    def _plan_running(self, preempted: list[Sequence]) -> list[StepEntry]:
        """Entries of the running sequences; appends to ``preempted`` whom it had to put back."""
        entries: list[StepEntry] = []
        # One token at least for each, also after the limits were lowered.
        budget = max(self._config.max_batched_tokens, len(self._running))
        # The list shrinks from its end while blocks are sought, so no planned entry loses its own.
        while len(entries) < len(self._running):
            sequence = self._running[len(entries)]
            num_behind = len(self._running) - len(entries) - 1
            num_tokens = self._chunk(sequence.num_pending, budget - num_behind)
            preempted.extend(self._make_room(sequence, num_tokens))
            if sequence.state is not SequenceState.RUNNING:
                break
            budget -= num_tokens
            entries.append(_entry(sequence, num_tokens))
        return entries

    def _make_room(self, sequence: Sequence, num_tokens: int) -> list[Sequence]:
        """Grow a block table, preempting the latest arrivals, at last itself; returns them."""
        need = self._blocks_for(sequence.num_computed + num_tokens) - len(sequence.blocks)
        victims: list[Sequence] = []
        while (blocks := self._pool.allocate(max(0, need))) is None:
            victims.append(self._running[-1])
            self._preempt(victims[-1])
            if victims[-1] is sequence:
                return victims
        sequence.blocks.extend(blocks)
        return victims

    def _admit(self, budget: int) -> list[StepEntry]:
        """Start waiting sequences in order until one does not fit.

        Who waits for its leader is passed by, for that may take long; its place is kept.
        """
        entries: list[StepEntry] = []
        reserved, passed, size = self._reserved(), 0, self._config.block_size
        while budget > 0 and self.num_running + passed < self._config.max_num_seqs:
            if passed == len(self._waiting) or self._pool.num_free <= reserved:
                break
            sequence = self._waiting[passed]
            if sequence.awaits_leader(size):
                passed += 1
                reserved += self._blocks_for(sequence.num_tokens) - sequence.num_shareable(size)
                continue
            hits = self._lookup(sequence)
            need = self._blocks_for(sequence.num_tokens) - len(hits)
            if need > self._pool.num_free - self._pool.count_free(hits) - reserved:
                break
            del self._waiting[passed]
            num_tokens = self._start(sequence, hits, budget)
            entries.append(_entry(sequence, num_tokens))
            budget -= num_tokens
            reserved += self._blocks_for(sequence.num_tokens) - len(sequence.blocks)
        return entries

    def _roll_back(self, sequence: Sequence) -> None:
        """Give back the blocks that only rejected guesses needed."""
        num_kept = self._blocks_for(sequence.num_computed)
        self._pool.release(sequence.blocks[num_kept:])
        del sequence.blocks[num_kept:]

    def _reserved(self) -> int:
        """Blocks that running sequences still need. Some hold more: of guesses that never ran."""
        needs = (self._blocks_for(s.num_tokens) - len(s.blocks) for s in self._running)
        return sum(max(need, 0) for need in needs)

    def _start(self, sequence: Sequence, hits: list[int], budget: int) -> int:
        """Make a sequence running, with the blocks of its first chunk; returns the chunk's size."""
        num_hit_tokens = len(hits) * self._config.block_size
        if sequence.state is SequenceState.WAITING:
            sequence.num_cached = min(num_hit_tokens, sequence.num_prompt)
            if not sequence.request.resumed:
                self.num_begun += 1
                self.begun_prompt_tokens += sequence.num_prompt - sequence.num_cached
        if sequence.may_hit_cache:
            self.prefix_query_tokens += sequence.num_tokens
            self.prefix_hit_tokens += num_hit_tokens
        sequence.move_to(SequenceState.RUNNING)
        bisect.insort(self._running, sequence, key=attrgetter("arrival"))
        self._pool.acquire(hits)
        sequence.num_computed = num_hit_tokens
        sequence.num_published = len(hits)
        num_tokens = self._chunk(sequence.num_pending, budget)
        blocks = self._pool.allocate(self._blocks_for(num_hit_tokens + num_tokens) - len(hits))
        assert blocks is not None, "admission counted the free blocks"
        sequence.blocks = [*hits, *blocks]
        return num_tokens

    def _preempt(self, sequence: Sequence) -> None:
        sequence.move_to(SequenceState.PREEMPTED)
        self._running.remove(sequence)
        self._free(sequence)
        self.num_preemptions += 1
        self._wait_in_order(sequence)

    def _wait_in_order(self, sequence: Sequence) -> None:
        if not self._waiting or self._waiting[-1].turn < sequence.turn:
            self._waiting.append(sequence)
            return
        place = 0
        while self._waiting[place].turn < sequence.turn:
            place += 1
        self._waiting.insert(place, sequence)

    def _next_arrival(self, *, is_resumed: bool) -> int:
        """In order; those that ran elsewhere come before all that did not."""
        if is_resumed:
            self._num_resumed += 1
            return self._num_resumed - _MAX_RESUMED
        self._num_arrivals += 1
        return self._num_arrivals - 1

    def _free(self, sequence: Sequence) -> None:
        self._pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.num_computed = 0
        sequence.num_published = 0

    def _lookup(self, sequence: Sequence) -> list[int]:
        """Cached blocks of the longest known prefix that leaves a token to compute."""
        if not sequence.may_hit_cache:
            return []
        sequence.name_full_blocks(self._config.block_size)
        limit = (sequence.num_tokens - 1) // self._config.block_size
        return self._pool.lookup_prefix(sequence.keys, limit)

    def _publish_full_blocks(self, sequence: Sequence) -> None:
        num_full = sequence.num_computed // self._config.block_size
        if sequence.hash_context is None or num_full == sequence.num_published:
            return
        sequence.name_full_blocks(self._config.block_size)
        for index in range(sequence.num_published, num_full):
            self._pool.publish(sequence.blocks[index], sequence.keys[index])
        sequence.num_published = num_full

    def _chunk(self, num_pending: int, budget: int) -> int:
        return min(num_pending, budget, self._config.max_chunk_tokens)

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._config.block_size)


def _entry(sequence: Sequence, num_tokens: int) -> StepEntry:
    samples = num_tokens == sequence.num_pending
    return StepEntry(sequence, sequence.num_computed, num_tokens, samples)
