"""One choice of a request at a gateway: its wait, and the steps of its prompt and its tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

from router.engine.plan import StepEntry
from router.tracing.spans import SpanData, SpanEvent, Value
from router.tracing.step_detail import StepBuffer, StepDetail
from router.tracing.step_spans import step_span

_MAX_EVENTS = 32


@dataclass(slots=True, eq=False)
class Phase:
    """Steps of one kind: those of a prompt, or those that decode."""

    num_steps: int = 0
    total_s: float = 0.0
    longest_s: float = 0.0
    shortest_s: float = 0.0
    num_tokens: int = 0  # computed, guesses included
    sequences: int = 0  # beside it in its steps, summed, itself included
    shown: StepDetail | None = None  # the slowest, if there was room to hold it

    def add(self, step: StepDetail, num_tokens: int, buffer: StepBuffer) -> None:
        """One step more."""
        seconds = step.seconds
        if self.num_steps == 0 or seconds > self.longest_s:
            self.shown = buffer.exchange(self.shown, step)
        self.shortest_s = seconds if self.num_steps == 0 else min(self.shortest_s, seconds)
        self.longest_s = max(self.longest_s, seconds)
        self.num_steps += 1
        self.total_s += seconds
        self.num_tokens += num_tokens
        self.sequences += step.num_sequences

    @property
    def attributes(self) -> dict[str, Value]:
        """A summary of its steps."""
        if not self.num_steps:
            return {}
        return {
            "galerne.steps": self.num_steps,
            "galerne.steps.tokens": self.num_tokens,
            "galerne.steps.total_s": self.total_s,
            "galerne.steps.mean_s": self.total_s / self.num_steps,
            "galerne.steps.shortest_s": self.shortest_s,
            "galerne.steps.longest_s": self.longest_s,
            "galerne.steps.mean_sequences": self.sequences / self.num_steps,
        }


@dataclass(slots=True, eq=False)
class ChoiceTrace:
    """Noted step by step on the engine's thread."""

    choice: int
    queued_s: float
    begun_s: float | None = None  # its first step
    first_token_s: float | None = None
    waits_since_s: float = 0.0  # for the next token
    longest_wait_s: float = 0.0
    ended_s: float | None = None
    outcome: str = ""
    error: str = ""
    num_tokens: int = 0
    num_cached: int = 0
    is_retried: bool = False  # rows of it were asked of another shard
    prefill: Phase = field(default_factory=Phase)
    decode: Phase = field(default_factory=Phase)
    events: list[SpanEvent] = field(default_factory=list)

    def stepped(self, entry: StepEntry, step: StepDetail, buffer: StepBuffer) -> None:
        """A step has computed something of it."""
        if self.begun_s is None:
            self.begun_s = step.start_s
        phase = self.decode if self.first_token_s is not None else self.prefill
        phase.add(step, entry.num_tokens, buffer)
        self.num_cached = entry.sequence.num_cached
        if step.is_retried:
            self.is_retried = True
            self.note("asked another shard", step.end_s, {"galerne.step": step.step})

    def got(self, num_tokens: int, at_s: float) -> None:
        """Tokens were given out."""
        if not num_tokens:
            return
        if self.first_token_s is None:
            self.first_token_s = at_s
        self.longest_wait_s = max(self.longest_wait_s, at_s - self.waits_since_s)
        self.waits_since_s = at_s
        self.num_tokens += num_tokens

    def note(self, name: str, at_s: float, attributes: dict[str, Value] | None = None) -> None:
        """Something happened to it."""
        if len(self.events) < _MAX_EVENTS:
            self.events.append(SpanEvent(name, at_s, attributes or {}))

    def end(self, at_s: float, outcome: str, error: str = "") -> None:
        """It has ended."""
        self.ended_s, self.outcome, self.error = at_s, outcome, error
        self.longest_wait_s = max(self.longest_wait_s, at_s - self.waits_since_s)

    def release(self, buffer: StepBuffer) -> None:
        """Its steps need not be held any longer for it."""
        buffer.release(self.prefill.shown)
        buffer.release(self.decode.shown)

    def spans(self, num_layers: int) -> list[SpanData]:
        """Queue, prefill and decode, each with its slowest step."""
        end_s = self.queued_s if self.ended_s is None else self.ended_s
        begun_s = end_s if self.begun_s is None else self.begun_s
        first_s = end_s if self.first_token_s is None else self.first_token_s
        of: dict[str, Value] = {"galerne.choice": self.choice}
        spans = [SpanData("queue", self.queued_s, begun_s, of)]
        if self.prefill.num_steps:
            told = of | self.prefill.attributes | {"galerne.cached_tokens": self.num_cached}
            spans.append(self._phase("prefill", begun_s, first_s, told, num_layers))
        if self.decode.num_steps:
            told = of | self.decode.attributes
            told |= {"gen_ai.usage.output_tokens": self.num_tokens}
            told |= {"gen_ai.response.finish_reasons": (self.outcome,)}
            spans.append(self._phase("decode", first_s, end_s, told, num_layers))
        return spans

    def _phase(
        self, name: str, start_s: float, end_s: float, told: dict[str, Value], num_layers: int
    ) -> SpanData:
        phase = self.prefill if name == "prefill" else self.decode
        steps = () if phase.shown is None else (step_span(phase.shown, num_layers),)
        is_last = end_s == self.ended_s
        events = [e for e in self.events if start_s <= e.at_s <= end_s]
        error = self.error if is_last else ""
        return SpanData(name, start_s, end_s, told, steps, events, error=error)
