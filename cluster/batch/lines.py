"""Lines of a batch: requests as they come, answers as they are written."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from galerne.errors import GalerneError

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
MAX_ID_CHARS = 512
_ANSWER_START = b'{"id": "'  # of what ``answer_line`` writes
_NO_ANSWER = "is no answer of a batch"


class BatchFileError(GalerneError):
    """A line of a batch's file is none."""

    status = "FAILED_PRECONDITION"

    def __init__(self, file: str, line: int, problem: str) -> None:
        super().__init__(file, line, problem)
        self.file = file
        self.line = line
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.problem}"


class BatchRequest(NamedTuple):
    """One request of a batch."""

    custom_id: str
    url: str  # one of ``ENDPOINTS``
    body: Mapping[str, Any]


def read_requests(path: Path, done: Collection[str] = ()) -> Iterator[BatchRequest]:
    """Requests of a file that are not ``done``; blank lines are passed over.

    Raises:
        BatchFileError: A line is none; names it.
    """
    return (request for _, request in _numbered(path) if request.custom_id not in done)


def check_requests(path: Path) -> set[str]:
    """Ids of all requests of a file.

    Raises:
        BatchFileError: A line is none, or has the id of another; names it.
    """
    known: set[str] = set()
    for number, request in _numbered(path):
        if request.custom_id in known:
            problem = f"custom_id {request.custom_id[:100]!r} is there twice"
            raise BatchFileError(str(path), number, problem)
        known.add(request.custom_id)
    return known


def _numbered(path: Path) -> Iterator[tuple[int, BatchRequest]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, _request_of(str(path), number, line)


def answer_line(
    custom_id: str, answer_id: str, status: int, request_id: str, body: object
) -> bytes:
    """An answer as it is written, the line's end included."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    fields = {"id": answer_id, "custom_id": custom_id, "response": response, "error": None}
    return json.dumps(fields).encode() + b"\n"


def read_done(path: Path, file: BinaryIO, wanted: Collection[str]) -> set[str]:
    """Ids that a file has answers to; a last line without an end is cut off: a kill tore it.

    Nothing but the beginning of an answer is cut off: it might be somebody's only line.

    Raises:
        BatchFileError: A line is no answer, or to no request that is ``wanted``.
    """
    done: set[str] = set()
    end = 0
    file.seek(0)
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            if line[: len(_ANSWER_START)] != _ANSWER_START[: len(line)]:
                raise BatchFileError(str(path), number, _NO_ANSWER)
            break
        end += len(line)
        done.add(_answered_id(str(path), number, line, wanted))
    file.truncate(end)
    file.seek(0, os.SEEK_END)
    return done


def _answered_id(file: str, number: int, line: bytes, wanted: Collection[str]) -> str:
    try:
        answer = json.loads(line)
        custom_id, _ = answer["custom_id"], answer["response"]  # a request has none
    except (ValueError, TypeError, LookupError, RecursionError):
        raise BatchFileError(file, number, _NO_ANSWER) from None
    if not isinstance(custom_id, str) or custom_id not in wanted:
        problem = f"answers {str(custom_id)[:100]!r}, which the input does not ask"
        raise BatchFileError(file, number, problem)
    return custom_id


def _request_of(file: str, number: int, line: bytes) -> BatchRequest:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BatchFileError(file, number, f"is no JSON: {error}") from None
    problem = _problem_of(fields)
    if problem:
        raise BatchFileError(file, number, problem)
    return BatchRequest(fields["custom_id"], fields["url"], fields["body"])


def _problem_of(fields: object) -> str:
    """What is wrong with a line; empty: nothing."""
    if not isinstance(fields, dict):
        return "must be an object"
    custom_id, body = fields.get("custom_id"), fields.get("body")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_ID_CHARS:
        return f"custom_id must be a string of 1 to {MAX_ID_CHARS} characters"
    if fields.get("method") != "POST":
        return "method must be POST"
    if fields.get("url") not in ENDPOINTS:
        return f"url must be one of {', '.join(ENDPOINTS)}"
    if not isinstance(body, dict):
        return "body must be an object"
    return "body.stream does not go with a batch" if body.get("stream") else ""
