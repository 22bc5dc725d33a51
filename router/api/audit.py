"""The audit log: who did what and when, as one JSON object a line. No content, no secrets."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from galerne.clock import Clock, MonotonicClock
from galerne.errors import ConfigError
from galerne.logs import AUDIT
from router.api.key_limits import Budget

REFUSALS_PER_MIN = 600  # who tries keys must not fill the disk

_fallback = logging.getLogger(AUDIT)
logger = logging.getLogger(__name__)


class AuditLog:
    """Writes events to a file of its own, or to the log of the process.

    In the process' log are refusals and changes of the cluster only; in a file, requests too.
    """

    def __init__(self, path: Path | None = None, clock: Clock | None = None) -> None:
        """The file is made for its owner alone.

        Raises:
            ConfigError: It cannot be written.
        """
        self._path = path
        if path is not None:
            try:
                _append(path, "")
            except OSError as error:
                raise ConfigError("audit_log", path, str(error)) from error
        self.has_requests = path is not None
        self._clock = clock if clock is not None else MonotonicClock()
        self._refusals = Budget()
        self._num_left_out = 0

    def action(self, who: str, what: str, peer: str, **fields: object) -> None:
        """An operator asks for a change of the cluster."""
        self._write(logging.WARNING, "admin_action", who=who, what=what, peer=peer, **fields)

    def refused(self, who: str, what: str, peer: str, reason: str) -> None:
        """A key was missing, wrong, or not allowed to do this."""
        if self._refusals.wait_s(1, REFUSALS_PER_MIN, self._clock.now_s()) > 0:
            self._num_left_out += 1
            return
        self._refusals.take(1)
        left_out, self._num_left_out = self._num_left_out, 0
        fields = {"left_out": left_out} if left_out else {}
        self._write(
            logging.WARNING,
            "key_refused",
            who=who,
            what=what,
            peer=peer,
            reason=reason,
            **fields,
        )

    def request(self, who: str, api: str, outcome: str, num_prompt: int, num_answer: int) -> None:
        """A request has ended."""
        if self.has_requests:
            self._write(
                logging.INFO,
                "request",
                who=who,
                what=api,
                outcome=outcome,
                prompt_tokens=num_prompt,
                completion_tokens=num_answer,
            )

    def _write(self, level: int, event: str, **fields: object) -> None:
        if self._path is None:
            template = " ".join((event, *(f"{name}=%s" for name in fields)))
            _fallback.log(level, template, *fields.values())
            return
        now = datetime.now(tz=UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"at": now, "event": event, **fields})
        try:
            _append(self._path, line + "\n")
        except OSError as error:  # a full disk must not end what is served
            logger.error("audit_not_written reason=%s line=%s", error, line)  # noqa: TRY400


def _append(path: Path, line: str) -> None:
    """Open it each time: whoever rotates the file need not tell us.

    In one write, so that lines of several frontends do not mix.

    Raises:
        OSError: It cannot be written.
    """
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
