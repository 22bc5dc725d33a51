"""The batch at which a gateway settles under a load, and the load at which its limits are met."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from cluster.planning.candidate import Candidate
from cluster.planning.costs import Calibration
from cluster.planning.load import Load
from cluster.planning.queueing import fixed_point
from cluster.planning.shape import ModelShape
from cluster.planning.step import StepWork, step_parts


@dataclass(frozen=True, slots=True)
class Steady:
    """One gateway's mean state; times in seconds."""

    running: float  # sequences on average, over all time
    seen: float  # sequences in a step that a running one is in, itself among them
    step_s: float  # mean distance of a running sequence's steps
    decode_s: float  # a step without prefill
    chunk_s: float  # one with a chunk: with what the requests in it cost besides
    chunk_fraction: float  # of steps that carry one
    peers: float  # other gateways in a step at the same time


@dataclass(frozen=True, slots=True)
class Capacity:
    """One gateway at its limits."""

    slots: float  # sequences: max_num_seqs, or fewer if their prompts fill the token budget
    requests_per_s: float
    step_s: float


@dataclass(frozen=True, slots=True)
class GatewayModel:
    """One gateway of a candidate under a mix of requests."""

    shape: ModelShape
    calibration: Calibration
    candidate: Candidate
    load: Load

    @property
    def prompt(self) -> float:
        """Tokens of a prompt to compute."""
        return max(self.load.prompt_tokens, 0.0)

    @property
    def output(self) -> float:
        """Tokens of an answer; at least one."""
        return max(self.load.output_tokens, 1.0)

    @property
    def steps(self) -> float:
        """In which an answer is made; the first token is no guess."""
        return 1 + (self.output - 1) / self.load.guessing.tokens

    @property
    def begun_s(self) -> float:
        """By which a request that begins delays the gateway, besides its prompt.

        Images are encoded between steps, a share each time; it is counted as if at once.
        """
        return self.calibration.request_s + self.load.image_s

    def parts(self, num_decoding: float, num_prefill: float, peers: float) -> dict[str, float]:
        """A step's seconds by part."""
        work = StepWork(
            num_decoding=num_decoding,
            context=self.prompt + self.output / 2,
            num_prefill=num_prefill,
            prefill_context=self.prompt / 2,
            guessing=self.load.guessing,
        )
        return step_parts(self.shape, self.calibration, self.candidate, work, peers=peers)

    def seconds(self, num_decoding: float, num_prefill: float, peers: float) -> float:
        """A step's seconds."""
        return sum(self.parts(num_decoding, num_prefill, peers).values())

    def budget(self, num_decoding: float) -> float:
        """Prefill tokens that a step has room for besides."""
        rows = num_decoding * self.load.guessing.rows
        return max(self.candidate.max_batched_tokens - rows, 1.0)

    def capacity(self) -> Capacity:
        """The rate at the limits: every slot taken, or every token of a step's budget.

        A running sequence needs ``prompt / steps`` prefill tokens a step so that another can take
        its place; with b slots of r rows, b · (r + prompt / steps) tokens must fit into a step.
        """
        rows = self.load.guessing.rows + self.prompt / self.steps
        slots = min(float(self.candidate.max_num_seqs), self.candidate.max_batched_tokens / rows)
        ended = slots / self.steps  # requests a step
        state = self._at(max(slots, 1.0), ended, self.candidate.gateways - 1.0)
        return Capacity(slots, ended / state.step_s, state.step_s)

    def steady(self, rate: float, capacity: Capacity) -> Steady:
        """The state at ``rate`` requests/s of this gateway, below its capacity.

        Little's law: ``running = rate · steps · step_s``, and the step depends on what runs.
        """
        lone = replace(self._at(1.0, 0.0, 0.0), running=0.0)
        if rate <= 0:
            return lone

        states: dict[float, Steady] = {}

        def seconds_at(step_s: float) -> float:
            states[step_s] = self._state(rate, step_s, capacity)
            return states[step_s].step_s

        longest_s = capacity.slots / (rate * self.steps)
        step_s = fixed_point(seconds_at, lone.step_s, max(longest_s, lone.step_s))
        return states.get(step_s) or self._state(rate, step_s, capacity)

    def _state(self, rate: float, step_s: float, capacity: Capacity) -> Steady:
        """What steps of ``step_s`` would lead to."""
        running = rate * self.steps * step_s
        # An arrival finds the mean of the others, at the limit one seat less than there are
        # (Schweitzer); a lone one finds nobody.
        others = running * max(capacity.slots - 1, 0.0) / max(capacity.slots, 1.0)
        peers = (self.candidate.gateways - 1) * busy_fraction(running)
        return replace(self._at(1 + others, rate * step_s, peers), running=running)

    def _at(self, seen: float, arrivals: float, peers: float) -> Steady:
        """Steps in which so many requests begin on average: chunks in some, as they are cut."""
        decode_s = self.seconds(seen, 0.0, peers)
        prefill, begun_s = arrivals * self.prompt, arrivals * self.begun_s
        chunk = max(prefill, min(self.prompt, self.budget(seen)))
        fraction = prefill / chunk if chunk else 0.0
        # Never shorter: one large chunk may split into fewer micro-batches, each a pass of reads.
        if fraction:
            chunk_s = max(decode_s, self.seconds(seen, chunk, peers)) + begun_s / fraction
            mean_s = decode_s + fraction * (chunk_s - decode_s)
        else:
            chunk_s, mean_s = decode_s, decode_s + begun_s
        return Steady(seen, seen, mean_s, decode_s, chunk_s, fraction, peers)


def busy_fraction(running: float) -> float:
    """Part of the time in which at least one of ``running`` sequences on average runs.

    Source: their number is Poisson where none waits for another (M/G/infinity).
    """
    return -math.expm1(-running)
