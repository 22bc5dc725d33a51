"""What a record holds: events as values, and as lines of JSON. Pure, no torch."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from google.protobuf.message import DecodeError

from galerne.v1 import internal_pb2 as internal
from router.engine.plan import StepPlan
from router.engine.request import GenerationRequest, TokenDelta
from router.engine.scheduler_config import SchedulerConfig
from router.gateway.codec import decode_request, encode_request


class PlannedEntry(NamedTuple):
    """Positions ``start`` to ``start + num_tokens`` of one choice, as the scheduler decided."""

    request_id: str
    choice: int
    start: int
    num_tokens: int
    samples: bool
    draft: tuple[int, ...] = ()  # the last of them, guessed


class Outcome(NamedTuple):
    """What a step gave one choice."""

    request_id: str
    choice: int
    offset: int  # of the first token here among the choice's generated tokens
    token_ids: tuple[int, ...]
    ending: str  # the finish reason, and what an error says; empty while the choice goes on
    logprobs: str  # digest of its log probabilities, the prompt's too; empty without any


@dataclass(frozen=True, slots=True)
class Added:
    """A request was admitted."""

    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class Aborted:
    """A request, or one choice of it, was aborted."""

    request_id: str
    choice: int | None
    ended: tuple[int, ...]  # choices


@dataclass(frozen=True, slots=True)
class Preempted:
    """Choices were forced to give up their blocks."""

    request_id: str
    choices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EpochCommitted:
    """Another topology from the next step on, with these limits."""

    epoch: int
    max_num_seqs: int
    max_batched_tokens: int
    max_chunk_tokens: int


@dataclass(frozen=True, slots=True)
class FaultNoticed:
    """What the gateway believes of a part has changed."""

    part: str
    kind: str  # down, suspect; up: it is over


@dataclass(frozen=True, slots=True)
class Planned:
    """A step begins: who computes what, and who lost their blocks for it."""

    entries: tuple[PlannedEntry, ...]
    preempted: tuple[tuple[str, int], ...]  # request id and choice


@dataclass(frozen=True, slots=True)
class Sampled:
    """The planned step succeeded."""

    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The planned step failed, in the model or, once it had logits, in sampling."""

    reason: str
    has_logits: bool
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Incomplete:
    """What follows is not here."""

    reason: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The engine ended in order; nothing follows."""


Event: TypeAlias = (
    Added
    | Aborted
    | Preempted
    | EpochCommitted
    | FaultNoticed
    | Planned
    | Sampled
    | Failed
    | Incomplete
    | Closed
)


class RecordLine(NamedTuple):
    """One event and when it happened."""

    number: int  # line of the file, from 1
    step: int  # the step before which, or in which, it happened
    at_s: float  # since the start of the record
    event: Event


def planned(plan: StepPlan) -> Planned:
    """A plan as it is recorded."""
    return Planned(
        tuple(
            PlannedEntry(s.request_id, s.choice, start, num_tokens, samples, draft)
            for s, start, num_tokens, samples, draft in plan.entries
        ),
        tuple((s.request_id, s.choice) for s in plan.preempted),
    )


def outcomes(deltas: Iterable[TokenDelta]) -> tuple[Outcome, ...]:
    """A step's deltas as they are recorded."""
    return tuple(
        Outcome(d.request_id, d.choice, d.offset, tuple(d.token_ids), _ending(d), _digest(d))
        for d in deltas
    )


def epoch_committed(epoch: int, config: SchedulerConfig) -> EpochCommitted:
    """An epoch's limits as they are recorded."""
    return EpochCommitted(
        epoch, config.max_num_seqs, config.max_batched_tokens, config.max_chunk_tokens
    )


def _ending(delta: TokenDelta) -> str:
    if delta.finish_reason is None:
        return ""
    return (
        f"{delta.finish_reason.value}: {delta.error}" if delta.error else delta.finish_reason.value
    )


def _digest(delta: TokenDelta) -> str:
    if not delta.logprobs and not delta.prompt_logprobs:
        return ""
    text = repr((list(delta.logprobs), list(delta.prompt_logprobs)))  # of floats: exact
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


_KIND_BY_TYPE: dict[type, str] = {
    Added: "added",
    Aborted: "aborted",
    Preempted: "preempted",
    EpochCommitted: "epoch",
    FaultNoticed: "fault",
    Planned: "planned",
    Sampled: "sampled",
    Failed: "failed",
    Incomplete: "incomplete",
    Closed: "closed",
}
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_TYPE_BY_KIND = {kind: event_type for event_type, kind in _KIND_BY_TYPE.items()}


def to_line(step: int, at_s: float, event: Event) -> str:
    """One line of JSON, without the line end."""
    head = {"step": step, "t": round(at_s, 6), "event": _KIND_BY_TYPE[type(event)]}
    return _encode(head | _fields(event))


def from_line(number: int, line: str | bytes) -> RecordLine:
    """The event of a line.

    Raises:
        ValueError: It is none.
    """
    try:
        fields = json.loads(line)
        step, at_s, kind = fields.pop("step"), fields.pop("t"), fields.pop("event")
        return RecordLine(number, step, at_s, _event(_TYPE_BY_KIND[kind], fields))
    except (AttributeError, KeyError, TypeError, DecodeError) as error:
        raise ValueError(f"not an event: {error!r}") from error


def _fields(event: Event) -> dict[str, Any]:
    if isinstance(event, Added):
        request = event.request
        message = encode_request(request).SerializeToString()
        return {"id": request.request_id, "request": base64.b64encode(message).decode()}
    return {name: getattr(event, name) for name in event.__slots__}


def _event(event_type: type[Any], fields: dict[str, Any]) -> Event:
    if event_type is Added:
        message = base64.b64decode(fields["request"], validate=True)
        return Added(decode_request(internal.SubmitRequest.FromString(message)))
    if event_type is Planned:
        entries = tuple(map(_planned_entry, fields["entries"]))
        return Planned(entries, tuple((r, c) for r, c in fields["preempted"]))
    if "outcomes" in fields:
        fields["outcomes"] = tuple(map(_outcome, fields["outcomes"]))
    made: Event = event_type(
        **{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    )
    return made


def _planned_entry(row: Sequence[Any]) -> PlannedEntry:
    request_id, choice, start, num_tokens, samples, *draft = row  # none in older records
    guesses = tuple(draft[0]) if draft else ()
    return PlannedEntry(request_id, choice, start, num_tokens, samples, guesses)


def _outcome(row: Sequence[Any]) -> Outcome:
    request_id, choice, offset, token_ids, ending, logprobs = row
    return Outcome(request_id, choice, offset, tuple(token_ids), ending, logprobs)
