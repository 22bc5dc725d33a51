"""``galerne log-level``: what a running server's processes log."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from cluster.cli.client import (
    CALL_TIMEOUT_S,
    DEFAULT_TARGET,
    ApiKey,
    Target,
    connect_cluster,
    metadata,
)
from galerne.errors import ConfigError
from galerne.logs import LEVELS
from galerne.v1 import cluster_pb2 as pb


def log_level(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[PART] LEVEL",
            help="PART: gateway-0, shard-3, controller, frontend, server; unset: all. "
            f"LEVEL: {', '.join(LEVELS)}",
        ),
    ],
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = "",
) -> None:
    """Change what processes log, while they serve."""
    if len(words) > 2:
        raise ConfigError("log-level", " ".join(words), "takes a part and a level, or a level")
    part, level = words if len(words) == 2 else ("", words[0])
    request = pb.SetLogLevelRequest(part=part, level=level)
    with connect_cluster(target) as stub:
        told = stub.SetLogLevel(request, metadata=metadata(api_key), timeout=CALL_TIMEOUT_S)
    who = ", ".join(told.parts) or "nobody answered"
    Console(highlight=False).print(f"{level}: {who}", soft_wrap=True)
