"""Keys in files that may change while they are used: rotation without a restart."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from galerne.errors import ConfigError
from galerne.file_watch import FileWatch
from galerne.metric_set import MetricSet
from router.api.keys import ApiKeys, read_entries

logger = logging.getLogger(__name__)

PERIOD_S = 1.0


class KeyFiles:
    """The files of clients' keys and of operators' keys. Belongs to one event loop."""

    def __init__(self, clients: Path | None, admins: Path | None, metrics: MetricSet) -> None:
        """Read them; None: there is none of that kind.

        Raises:
            ConfigError: A file cannot be used.
        """
        self._clients, self._admins = clients, admins
        self._watch = FileWatch([path for path in (clients, admins) if path is not None])
        self.keys = ApiKeys(*self._read())
        self._looks = metrics.counter(
            "galerne_api_key_file_looks_total", "Looks for changed key files."
        )
        self._changes = metrics.counter(
            "galerne_api_key_file_changes_total",
            "Changes of key files, by whether the new content was taken or refused.",
            "outcome",
        )
        for outcome in ("taken", "refused"):  # from zero on: an alert watches for the first
            self._changes.labels(outcome)
        self._known = metrics.gauge("galerne_api_keys", "Keys that are let in.")
        self._known.set(len(self.keys))

    async def keep_fresh(self, period_s: float = PERIOD_S) -> None:
        """Take new content as soon as it has stood still for a period; for ever."""
        while self._clients or self._admins:
            await asyncio.sleep(period_s)
            if await asyncio.to_thread(self._watch.look):
                self._take()
            self._looks.inc()

    def _take(self) -> None:
        try:
            self.keys.replace(*self._read())
        except ConfigError as error:  # the old ones go on: an operator's slip locks nobody out
            self._changes.labels("refused").inc()
            logger.error("api_keys_not_taken reason=%s", error)  # noqa: TRY400
            return
        self._changes.labels("taken").inc()
        self._known.set(len(self.keys))
        logger.warning("api_keys_taken num_keys=%d", len(self.keys))

    def _read(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return _entries(self._clients), _entries(self._admins)


def _entries(path: Path | None) -> tuple[str, ...]:
    return () if path is None else read_entries(path)
