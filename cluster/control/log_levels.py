"""What the controller knows of everybody's log level."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from galerne import logs
from galerne.errors import InvalidRequestError
from galerne.logs import LogSettings
from router.api.log_level import FRONTEND

CONTROLLER, SERVER = "controller", "server"
_CALL_TIMEOUT_S = 3.0


class LogLevels:
    """A part of the controller. Levels are forgotten when it restarts; parts keep theirs."""

    _actors: dict[str, Any]  # handles of parts
    _level_of_all: str | None = None
    _level_by_part: Mapping[str, str] = MappingProxyType({})
    _telling: asyncio.Future[bool] | None = None  # held, or it might never be done

    def _keep_log(self, settings: LogSettings) -> None:
        """Log as the deployment does."""
        logs.set_up(settings, CONTROLLER)

    @property
    def server_log_level(self) -> str | None:
        """Of the driver."""
        return self.log_level_of(SERVER)

    async def set_log_level(self, level: str, part: str) -> Sequence[str]:
        """See ``ClusterPort``; of a part that does not answer its heartbeat is waited for.

        Raises:
            InvalidRequestError: There is no such part; names it.
        """
        known = (CONTROLLER, SERVER, FRONTEND, *self._actors)
        if part and part not in known:
            problem = f"must be one of {', '.join(sorted(known))}, got {part[:50]!r}"
            raise InvalidRequestError("part", problem)
        if part:
            self._level_by_part = {**self._level_by_part, part: level}
        else:
            self._level_of_all, self._level_by_part = level, {}
        wanted = (part,) if part else known
        answers = await asyncio.gather(*(self._tell(name, level) for name in wanted))
        return [name for name, has_answered in zip(wanted, answers, strict=True) if has_answered]

    def log_level_of(self, part: str) -> str | None:
        """What a part shall log; None: as it began."""
        return self._level_by_part.get(part, self._level_of_all)

    def _keep_log_level(self, part: str, *, is_new: bool) -> None:
        """A process serves as a part; a new one logs as its predecessor did."""
        level = self.log_level_of(part)
        if is_new and level is not None:
            self._telling = asyncio.ensure_future(self._tell(part, level))

    async def _tell(self, part: str, level: str) -> bool:
        if part == CONTROLLER:
            logs.set_level(level)
        elif part not in (SERVER, FRONTEND):  # these ask by themselves, at least once a second
            with contextlib.suppress(Exception):  # a dead part has no level
                answer = self._actors[part].set_log_level.remote(level)
                await asyncio.wait_for(answer, _CALL_TIMEOUT_S)
                return True
            return False
        return True
