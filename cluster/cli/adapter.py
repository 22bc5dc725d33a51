"""``galerne adapter``: LoRA adapters of a running server."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from cluster.cli.client import (
    CALL_TIMEOUT_S,
    DEFAULT_TARGET,
    ApiKey,
    Target,
    connect_cluster,
    metadata,
    wide_console,
)
from galerne.units import size_text
from galerne.v1 import cluster_pb2 as pb

_LOAD_TIMEOUT_S = 300.0
Name = Annotated[str, typer.Argument(help="what clients ask for as model")]


def load(
    name: Name,
    directory: Annotated[
        str, typer.Argument(help="its directory's name in --adapters of the server; unset: NAME")
    ] = "",
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = "",
) -> None:
    """Load a LoRA adapter (PEFT format) while requests run; returns when every part has it."""
    request = pb.LoadLoraRequest(name=name, directory=directory)
    with connect_cluster(target) as stub:
        info = stub.LoadAdapter(request, metadata=metadata(api_key), timeout=_LOAD_TIMEOUT_S)
    text = f"loaded {info.name}  id {info.id}  rank {info.rank}  {size_text(info.num_bytes)}"
    wide_console().print(text, markup=False)


def unload(
    name: Name,
    deadline_s: Annotated[
        float, typer.Option(min=0, help="seconds that requests which use it get to end")
    ] = 30.0,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = "",
) -> None:
    """Unload an adapter when no request uses it; refused if some still do at the deadline."""
    request = pb.UnloadLoraRequest(name=name, deadline_s=deadline_s)
    timeout_s = deadline_s + CALL_TIMEOUT_S * 2
    with connect_cluster(target) as stub:
        stub.UnloadAdapter(request, metadata=metadata(api_key), timeout=timeout_s)
    wide_console().print(f"unloaded {name}", markup=False)


def list_adapters(target: Target = DEFAULT_TARGET, api_key: ApiKey = "") -> None:
    """Show the adapters that are loaded."""
    with connect_cluster(target) as stub:
        request = pb.ListAdaptersRequest()
        found = stub.ListAdapters(request, metadata=metadata(api_key), timeout=CALL_TIMEOUT_S)
    table = Table("name", "directory", "id", "rank", "size", box=None)
    for info in found.adapters:
        table.add_row(
            *(info.name, info.directory, info.id, str(info.rank), size_text(info.num_bytes))
        )
    wide_console().print(table if found.adapters else "none is loaded")
