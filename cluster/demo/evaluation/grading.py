"""Whether a reply is right, and the table of all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cluster.demo.evaluation.asking import Reply
from cluster.demo.evaluation.exam import EFFORTS, GROUPS
from cluster.demo.lessons.document import Call, Document, Effort


class Graded(NamedTuple):
    """One question, its answer and the verdict."""

    document: Document
    reply: Reply
    is_right: bool


class Score(NamedTuple):
    """Right answers out of all."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        """From 0 to 1; 0 where nothing was asked."""
        return self.right / self.asked if self.asked else 0.0


class Line(NamedTuple):
    """One line of the table: a group (with its bars) or one of its tasks."""

    name: str
    is_group: bool
    scores: Mapping[Effort, Score]
    bars: Mapping[Effort, float]

    def is_met(self, effort: Effort) -> bool | None:
        """Whether the bar is cleared; None where there is none."""
        bar = self.bars.get(effort)
        return None if bar is None else self.scores[effort].share >= bar


def grade(document: Document, reply: Reply) -> Graded:
    """Right is exactly the known text and calls, ended by the model; reasoning is not graded."""
    wanted = document.messages[-1]
    is_same = reply.text == wanted.text and _written(reply.calls) == _written(wanted.calls)
    return Graded(document, reply, reply.has_ended and is_same)


def table(graded: Sequence[Graded]) -> list[Line]:
    """Groups, each followed by its tasks where it has several."""
    lines = []
    for group in GROUPS:
        lines.append(Line(group.name, True, _scores(graded, group.tasks), group.bars))
        if len(group.tasks) > 1:
            lines += [Line(task, False, _scores(graded, (task,)), {}) for task in group.tasks]
    valid = {
        effort: _score(_is_object(g.reply) for g in graded if _is(g, ("json",), effort))
        for effort in EFFORTS
    }
    lines.append(Line("JSON objects, valid", True, valid, {"none": 0.95, "high": 0.95}))
    ended = {
        effort: _score(g.reply.has_ended for g in graded if g.document.effort == effort)
        for effort in EFFORTS
    }
    lines.append(Line("answers that end", True, ended, {"none": 1.0, "high": 1.0}))
    return lines


def by_language(graded: Sequence[Graded]) -> dict[str, Score]:
    """Facts and languages by the language of the question, both efforts together."""
    tasks = next(group.tasks for group in GROUPS if group.name == "facts and languages")
    chosen = [g for g in graded if g.document.task in tasks]
    names = sorted({g.document.language for g in chosen})
    return {n: _score(g.is_right for g in chosen if g.document.language == n) for n in names}


def _scores(graded: Sequence[Graded], tasks: Sequence[str]) -> dict[Effort, Score]:
    return {e: _score(g.is_right for g in graded if _is(g, tasks, e)) for e in EFFORTS}


def _is(graded: Graded, tasks: Sequence[str], effort: Effort) -> bool:
    return graded.document.task in tasks and graded.document.effort == effort


def _score(verdicts: Iterable[bool]) -> Score:
    found = list(verdicts)
    return Score(sum(found), len(found))


def _written(calls: Iterable[Call]) -> list[tuple[str, str]]:
    """Calls as text: for Python 1, 1.0 and true are equal. The order of arguments is free."""
    return [(call.name, json.dumps(call.arguments, sort_keys=True)) for call in calls]


def _is_object(reply: Reply) -> bool:
    try:
        value = json.loads(reply.text, parse_constant=_refuse)
    except ValueError:
        return False
    return reply.has_ended and isinstance(value, dict)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
