"""Traffic that ``galerne serve --record`` has kept, as a workload for the simulator."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cluster.simulator.workload import Arrival
from galerne.errors import ConfigError
from router.engine.request import GenerationRequest
from router.gateway.record_events import Added, Event, Failed, Outcome, Planned, Sampled
from router.gateway.record_file import Record, find_records


@dataclass(slots=True)
class _Choice:
    """One answer to a request, on whatever gateways it ran."""

    at_s: float
    prompt_tokens: int
    output_tokens: int = 0
    has_begun: bool = False


def recorded_arrivals(directory: Path) -> list[Arrival]:
    """All answers in all records of a directory, by arrival; times as the gateways' clocks tell.

    Prompts count without what the prefix cache held when they began. Outputs are as long as they
    became, also where they ended early. A request that went on at another gateway is one arrival;
    who was gone before a token was there is none.

    Raises:
        ConfigError: There is no record, one cannot be read, or nothing was answered in it.
    """
    streams = [_events(record) for record in find_records(directory)]
    choices = _choices(heapq.merge(*streams, key=lambda timed: timed[0]))
    found = [
        Arrival(c.at_s, max(1, c.prompt_tokens), c.output_tokens)
        for c in choices
        if c.output_tokens
    ]
    if not found:
        raise ConfigError("workload", directory, "no request was answered in these records")
    return found


def _events(record: Record) -> Iterator[tuple[float, Event]]:
    """With their times, in seconds since 1970."""
    try:
        began_s = datetime.fromisoformat(record.header.started_at).timestamp()
    except ValueError as error:
        raise ConfigError("record", record.path, f"started_at: {error}") from error
    for line in record.lines():
        yield began_s + line.at_s, line.event


def _choices(timed: Iterable[tuple[float, Event]]) -> list[_Choice]:
    """In order of arrival."""
    found: list[_Choice] = []
    latest: dict[tuple[str, int], _Choice] = {}
    for at_s, event in timed:
        match event:
            case Added(request):
                found += _new_choices(at_s, request, latest)
            case Planned(entries):
                for entry in entries:
                    _begin(latest.get((entry.request_id, entry.choice)), entry.start)
            case Sampled(outcomes) | Failed(outcomes=outcomes):
                _generate(outcomes, latest)
            case _:
                pass  # what else happens changes no request
    return found


def _new_choices(
    at_s: float, request: GenerationRequest, latest: dict[tuple[str, int], _Choice]
) -> list[_Choice]:
    """Those that are not the rest of what another gateway began."""
    new = {}
    for choice in request.open_choices:
        key = request.request_id, choice
        if not (request.resumed and key in latest):
            new[key] = _Choice(at_s, len(request.prompt_token_ids))
    latest.update(new)
    return list(new.values())


def _begin(choice: _Choice | None, start: int) -> None:
    """``start``: the first position that was computed, behind what the cache held."""
    if choice is not None and not choice.has_begun:
        choice.has_begun = True
        choice.prompt_tokens -= min(start, choice.prompt_tokens)


def _generate(outcomes: Iterable[Outcome], latest: dict[tuple[str, int], _Choice]) -> None:
    for outcome in outcomes:
        choice = latest.get((outcome.request_id, outcome.choice))
        if choice is not None:
            end = outcome.offset + len(outcome.token_ids)
            choice.output_tokens = max(choice.output_tokens, end)
