"""What processes log, changed while they serve."""

from __future__ import annotations

from collections.abc import Sequence

from galerne import logs
from galerne.errors import InvalidRequestError
from router.api.cluster_port import ClusterPort
from router.api.frontend import Frontend

FRONTEND = "frontend"  # all of them


async def set_log_level(
    cluster: ClusterPort, frontend: Frontend, level: str, part: str
) -> Sequence[str]:
    """Have a part log so from now on, frontends too; empty: all. Who does.

    Raises:
        InvalidRequestError: There is no such level or part; names the field.
    """
    if level not in logs.LEVELS:
        problem = f"must be one of {', '.join(logs.LEVELS)}, got {level[:50]!r}"
        raise InvalidRequestError("level", problem)
    frontend.access.note_action("SetLogLevel", asked={"level": level, "part": part[:100]})
    parts = await cluster.set_log_level(level, part)
    if part in ("", FRONTEND):  # the others hear of it from the controller
        logs.set_level(level)
    return parts
