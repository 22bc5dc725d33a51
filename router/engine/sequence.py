"""One choice of one request, as the scheduler sees it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from router.engine.block_hash import ROOT, HashContext, block_keys
from router.engine.request import FinishReason, GenerationRequest

# Later arrivals that one step of priority passes by: strict among what a queue holds, yet nobody
# waits for ever.
OVERTAKEN_PER_PRIORITY = 1000


class SequenceState(enum.Enum):
    """Where a sequence stands. A preempted one waits again, without blocks, with its tokens."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"


ALLOWED: Mapping[SequenceState, frozenset[SequenceState]] = {
    SequenceState.WAITING: frozenset({SequenceState.RUNNING, SequenceState.FINISHED}),
    SequenceState.RUNNING: frozenset({SequenceState.PREEMPTED, SequenceState.FINISHED}),
    SequenceState.PREEMPTED: frozenset({SequenceState.RUNNING, SequenceState.FINISHED}),
    SequenceState.FINISHED: frozenset(),
}


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """Record of one choice; the scheduler alone changes it. Compared and hashed by identity."""

    request: GenerationRequest
    choice: int
    arrival: int  # order of admission to the queue, unique
    token_ids: list[int]  # prompt, then generated
    num_prompt: int
    max_num_tokens: int  # prompt and generated; whoever samples finishes the sequence here
    num_computed: int = 0  # positions whose KV rows are in the blocks
    num_cached: int = 0  # prompt tokens that the first admission found in the prefix cache
    blocks: list[int] = field(default_factory=list)  # block table, by position
    keys: list[bytes] = field(default_factory=list)  # names of the first full blocks
    num_published: int = 0  # leading blocks that were offered to the prefix cache
    hash_context: HashContext | None = None  # None: neither looked up nor published
    leader: Sequence | None = None  # the choice whose prompt blocks this one waits to share
    state: SequenceState = SequenceState.WAITING
    finish_reason: FinishReason | None = None

    @property
    def request_id(self) -> str:
        """The request's id; choices share it."""
        return self.request.request_id

    @property
    def turn(self) -> tuple[bool, int, int]:
        """Order of those that wait: first who has run before, then by priority and arrival."""
        if self.state is SequenceState.PREEMPTED or self.request.resumed:
            return False, self.arrival, self.arrival
        return True, self.arrival + OVERTAKEN_PER_PRIORITY * self.request.priority, self.arrival

    @property
    def num_tokens(self) -> int:
        """Known tokens, prompt and generated."""
        return len(self.token_ids)

    @property
    def num_generated(self) -> int:
        """Tokens sampled so far."""
        return len(self.token_ids) - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Known tokens that are not computed: 1 in decode, more in prefill."""
        return len(self.token_ids) - self.num_computed

    @property
    def is_finished(self) -> bool:
        """Whether the sequence has ended."""
        return self.state is SequenceState.FINISHED

    @property
    def may_hit_cache(self) -> bool:
        """Whether computed blocks of others may stand in for this sequence's own.

        Log probabilities of the prompt need the prompt's hidden states, so they must be computed.
        """
        needs_prompt = self.request.sampling.prompt_logprobs is not None and self.choice == 0
        return self.hash_context is not None and not needs_prompt

    def num_shareable(self, block_size: int) -> int:
        """Blocks of the prompt that choices can have in common; one token stays to be computed."""
        return (self.num_prompt - 1) // block_size

    def awaits_leader(self, block_size: int) -> bool:
        """Whether another choice is just computing the prompt blocks that this one can share."""
        leader = self.leader
        if leader is None or leader.state is not SequenceState.RUNNING or not self.may_hit_cache:
            return False
        return leader.num_published < self.num_shareable(block_size)

    def name_full_blocks(self, block_size: int) -> None:
        """Bring ``keys`` up to the known tokens; each block is hashed once."""
        if self.hash_context is None:
            return
        self.keys += block_keys(
            self.token_ids,
            self.request.images,
            self.hash_context,
            block_size,
            start_block=len(self.keys),
            parent=self.keys[-1] if self.keys else ROOT,
        )

    def move_to(self, state: SequenceState) -> None:
        """Change state.

        Raises:
            ValueError: The step is not in ``ALLOWED``.
        """
        if state not in ALLOWED[self.state]:
            raise ValueError(
                f"request {self.request_id} choice {self.choice}: "
                f"{self.state.value} cannot become {state.value}"
            )
        self.state = state
