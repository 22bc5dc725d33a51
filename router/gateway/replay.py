"""Repeats a recorded run in one process, and compares every plan and every token.

The engine, scheduler, sampler and model are those of a gateway, built the same way, with all
experts in the process. What came from outside is fed from the record, before the step before which
it came: requests, aborts, forced preemptions, the limits of epochs; time is the record's. A step
that failed for want of experts fails again. What the engine does it tells a recorder, as it did
the first time; that is compared.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from galerne.clock import VirtualClock
from galerne.errors import EpochRetiredError, GalerneError
from galerne.ids import Epoch
from router.engine.request import GenerationRequest
from router.gateway import record_events as events
from router.gateway.build import Progress
from router.gateway.event_recorder import EventRecorder
from router.gateway.record_events import Event, RecordLine
from router.gateway.record_file import Record, RecordHeader
from router.gateway.replay_compare import Difference, difference_at, first_difference
from router.gateway.replay_gateway import ReplayGateway, build_replay


class Ending(enum.Enum):
    """How a record ends."""

    CLOSED = "closed"
    CUT_OFF = "cut off"  # its process died, or its disk was full
    INCOMPLETE = "incomplete"  # the writer could not keep up; the rest is missing


@dataclass(slots=True, kw_only=True)
class ReplayResult:
    """What was repeated, and whether it was the same."""

    num_requests: int = 0
    num_steps: int = 0
    num_failed_steps: int = 0  # of the steps
    num_tokens: int = 0  # sampled
    num_faults: int = 0  # parts lost or suspected
    num_epochs: int = 0  # committed after the start
    ending: Ending = Ending.CUT_OFF
    note: str = ""  # why it is incomplete
    difference: Difference | None = None

    @property
    def is_good(self) -> bool:
        """Whether all that happened was repeated, and was the same."""
        return self.difference is None and self.ending is not Ending.INCOMPLETE


def replay(
    record: Record,
    *,
    num_threads: int = 1,
    checkpoint: Path | None = None,
    adapters: Path | None = None,
    on_progress: Progress = lambda what, done, of: None,
    on_step: Callable[[ReplayResult], None] = lambda result: None,
) -> ReplayResult:
    """Repeat a record up to its end or the first difference.

    Args:
        record: What to repeat.
        num_threads: Of the model; changes no token.
        checkpoint: Where it lies now; unset: where it lay then.
        adapters: The same of the directory that holds adapters.
        on_progress: Told how far the model has loaded.
        on_step: Told after each step how far it has come.

    Raises:
        ConfigError: The record cannot be read, this checkpoint or machine computes otherwise, or
            an adapter is missing.
        CheckpointError: The checkpoint cannot be used.
    """
    lines = record.lines()
    first = next(lines, None)
    if first is None:  # a gateway that died while it loaded
        return ReplayResult()
    heard = _Heard()
    clock = VirtualClock()
    header = replace(
        record.header,
        checkpoint=checkpoint or record.header.checkpoint,
        adapters_root=adapters or record.header.adapters_root,
    )
    built = build_replay(header, num_threads, heard, clock, on_progress)
    engine, run = built.engine, _Replay(built, heard, header)
    try:
        for line, outcome in steps_of(chain([first], lines)):
            clock.move_to(line.at_s)
            run.repeat(line, outcome)
            on_step(run.result)
            if run.result.difference is not None:
                break
    finally:
        engine.stop()
    return run.result


def steps_of(lines: Iterable[RecordLine]) -> Iterator[tuple[RecordLine, RecordLine | None]]:
    """Each line, and with a plan how its step ended; None where the record ends before that.

    What was noticed during a step comes before it.
    """
    plan: RecordLine | None = None
    for line in lines:
        if isinstance(line.event, events.Planned):
            plan = line
        elif isinstance(line.event, events.Sampled | events.Failed) and plan is not None:
            yield plan, line
            plan = None
        else:
            yield line, None
    if plan is not None:
        yield plan, None


class _Heard(EventRecorder):
    """Hears what the engine does. What came from outside was fed to it, and is no answer."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def take(self) -> list[Event]:
        """What was heard since the last time."""
        heard, self._events = self._events, []
        return heard

    def added(self, request: GenerationRequest) -> None:
        pass

    def fault_noticed(self, part: str, kind: str) -> None:
        pass

    def close(self) -> None:
        pass

    def _put(self, make: Callable[[], Event]) -> None:
        self._events.append(make())


class _Replay:
    """One run, event by event."""

    def __init__(self, built: ReplayGateway, heard: _Heard, header: RecordHeader) -> None:
        self.result = ReplayResult()
        self._engine = built.engine
        self._experts = built.experts
        self._drafting = built.drafting
        self._guides = built.guides
        self._adapters = built.adapters
        self._heard = heard
        self._config = header.scheduler
        self._epoch = Epoch(header.epoch)

    def repeat(self, line: RecordLine, outcome: RecordLine | None) -> None:
        """Let happen what the line says; ``outcome`` is how its step ended."""
        result, engine = self.result, self._engine
        match line.event:
            case events.Added(request):
                self._add(line, request)
            case events.Aborted(request_id, choice, _):
                self._do(line, engine.abort(request_id, choice))
            case events.Preempted(request_id, _):
                self._do(line, engine.preempt(request_id))
            case events.EpochCommitted(epoch, max_num_seqs, max_batched_tokens, max_chunk_tokens):
                result.num_epochs += 1
                self._epoch = Epoch(epoch)
                config = replace(
                    self._config,
                    max_num_seqs=max_num_seqs,
                    max_batched_tokens=max_batched_tokens,
                    max_chunk_tokens=max_chunk_tokens,
                )
                self._do(line, engine.reconfigure(self._epoch, config))
            case events.FaultNoticed(_, kind):
                result.num_faults += kind != "up"
            case events.Planned(entries, _):
                drafts = {(e.request_id, e.choice): e.draft for e in entries if e.draft}
                self._drafting.tell(drafts)
                self._step(line, outcome)
            case events.Incomplete(reason):
                result.ending, result.note = Ending.INCOMPLETE, reason
            case events.Closed():
                result.ending = Ending.CLOSED

    def _add(self, line: RecordLine, request: GenerationRequest) -> None:
        self.result.num_requests += 1
        self._adapters.need(request.adapter)
        future = self._engine.submit(request, self._guides.guides_now(request))
        self._engine.take_commands()
        while self._engine.prepare_some():
            pass
        error = future.exception(0)
        if error is not None:
            what = f"request {request.request_id}"
            self.result.difference = difference_at(line, what, "admitted", f"refused: {error}")

    def _do(self, line: RecordLine, future: Future[Any]) -> None:
        self._engine.take_commands()
        future.result()
        self._compare([line])

    def _step(self, line: RecordLine, outcome: RecordLine | None) -> None:
        self.result.num_steps += 1
        if outcome is not None and isinstance(outcome.event, events.Failed):
            self.result.num_failed_steps += 1
            if not outcome.event.has_logits:
                self._experts.fail_next_step(self._error_of(outcome.event))
        load = self._engine.load()
        if not load.running + load.waiting:
            self.result.difference = first_difference(line, None)
            return
        with contextlib.suppress(EpochRetiredError):  # the engine gave up, as it did then
            self._engine.step()
        self._compare([line] if outcome is None else [line, outcome])
        if outcome is not None and isinstance(outcome.event, events.Sampled):
            self.result.num_tokens += sum(len(o.token_ids) for o in outcome.event.outcomes)

    def _error_of(self, failed: events.Failed) -> GalerneError:
        """What the model raised. Without outcomes, the step was dropped."""
        return GalerneError(failed.reason) if failed.outcomes else EpochRetiredError(self._epoch)

    def _compare(self, lines: Sequence[RecordLine]) -> None:
        heard = [*self._heard.take(), None, None]
        found = (first_difference(line, event) for line, event in zip(lines, heard, strict=False))
        self.result.difference = next((d for d in found if d is not None), None)
