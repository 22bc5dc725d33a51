"""``galerne topology``: what serves, and how to change it while it serves. ``galerne events``."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated, Any

import grpc
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
from galerne.v1 import cluster_pb2 as pb

_POLL_S = 0.2
_SETTLE_S = 2.0  # what has happened already comes at once
_AWAY_S = 60.0  # the server may be unreachable for so long while it changes
Info = Any  # pb.TopologyInfo; generated messages are untyped


def show(context: typer.Context, target: Target = DEFAULT_TARGET, api_key: ApiKey = "") -> None:
    """Show the topology that serves."""
    if context.invoked_subcommand is not None:
        return
    with connect_cluster(target) as stub:
        request = pb.GetTopologyRequest()
        info = stub.GetTopology(request, metadata=metadata(api_key), timeout=CALL_TIMEOUT_S)
    _print(Console(highlight=False), info)


def set_topology(
    mode: Annotated[
        str | None,
        typer.Argument(help="latency, throughput, or auto (alone): galerne chooses; unset: as now"),
    ] = None,
    shards: Annotated[int | None, typer.Option(min=1, help="expert shards")] = None,
    gateways: Annotated[int | None, typer.Option(min=1, help="gateways")] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="copies of every expert")] = None,
    transport: Annotated[str | None, typer.Option(help="auto, local, shm, grpc or nccl")] = None,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, help="sequences in a step")] = None,
    max_batched_tokens: Annotated[int | None, typer.Option(min=16, help="tokens in a step")] = None,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = "",
) -> None:
    """Change mode, shards, gateways or copies while requests run; returns when it is done."""
    fields: dict[str, Any] = {
        "mode": mode,
        "shards": shards,
        "gateways": gateways,
        "replicas": replicas,
        "transport": transport,
        "max_num_seqs": max_num_seqs,
        "max_batched_tokens": max_batched_tokens,
    }
    request = pb.SetTopologyRequest(**{n: v for n, v in fields.items() if v is not None})
    console = Console(highlight=False)
    with connect_cluster(target) as stub:
        _print(console, _change(stub, request, api_key, console))


def roll(target: Target = DEFAULT_TARGET, api_key: ApiKey = "") -> None:
    """Replace every shard by a new process, one after another, while requests run.

    One more shard than now runs at a time, not twice as many.
    """
    console = Console(highlight=False)
    keys = metadata(api_key)
    with connect_cluster(target) as stub:
        info = stub.GetTopology(pb.GetTopologyRequest(), metadata=keys, timeout=CALL_TIMEOUT_S)
        for shard in info.shards:
            console.print(f"replacing {shard}")
            info = _change(stub, pb.SetTopologyRequest(replace_shard=shard), api_key, console)
        _print(console, info)


def rebalance(target: Target = DEFAULT_TARGET, api_key: ApiKey = "") -> None:
    """Place experts by the load of the last minute; refused where that would not pay."""
    console = Console(highlight=False)
    with connect_cluster(target) as stub:
        _print(console, _change(stub, pb.SetTopologyRequest(rebalance=True), api_key, console))


def drain(
    deadline_s: Annotated[float, typer.Option(min=0, help="seconds running requests get")] = 30.0,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = "",
) -> None:
    """Take no more requests; returns when none runs. Then the server can be ended."""
    console = Console(highlight=False)
    with connect_cluster(target) as stub:
        request = pb.DrainRequest(deadline_s=deadline_s)
        for progress in stub.Drain(request, metadata=metadata(api_key)):
            text = f"{progress.running} running, {progress.seconds_left:.0f} s left"
            console.print(text if progress.running else f"drained, {progress.aborted} aborted")


def events(
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="wait for more")] = False,
) -> None:
    """Show what has happened to the cluster: faults, adoptions, changes of topology."""
    console = Console(highlight=False)
    with connect_cluster(target) as stub:
        request = pb.WatchEventsRequest(after=0)
        timeout = None if follow else _SETTLE_S
        try:
            for event in stub.WatchEvents(request, metadata=metadata(api_key), timeout=timeout):
                at = datetime.fromtimestamp(event.time_s).astimezone().strftime("%H:%M:%S.%f")[:-3]
                line = f"{at}  {event.kind:<22} {event.part:<12} {event.text}"
                console.print(line, markup=False)
        except grpc.RpcError as error:
            call: Any = error
            if call.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise


def _change(stub: Any, request: Info, api_key: str, console: Console) -> Info:  # noqa: ANN401
    """Ask for a change and wait for its end.

    Raises:
        ConfigError: It was undone; says why.
    """
    keys = metadata(api_key)
    started = time.monotonic()
    info = stub.SetTopology(request, metadata=keys, timeout=CALL_TIMEOUT_S)
    epoch, stage = info.target_epoch, ""
    while info.stage not in ("idle", "asleep"):
        if info.stage != stage:
            stage = info.stage
            console.print(f"{time.monotonic() - started:6.1f} s  {stage}", style="dim")
        time.sleep(_POLL_S)
        ask = pb.GetTopologyRequest()
        info = stub.GetTopology(ask, metadata=keys, timeout=_AWAY_S, wait_for_ready=True)
    if info.epoch != epoch:
        raise ConfigError("topology", f"epoch {epoch}", info.last_error or "was not reached")
    console.print(f"{time.monotonic() - started:6.1f} s  done", style="dim")
    return info


def _print(console: Console, info: Info) -> None:
    shards = ", ".join(info.shards) if info.shards else "none: gateways hold the experts"
    console.print(
        f"[bold]{info.mode}[/]{' (auto)' if info.is_auto else ''}  epoch {info.epoch}  "
        f"{info.stage}  by {info.transport}, "
        f"at most {info.max_num_seqs} sequences and {info.max_batched_tokens} tokens a step"
    )
    console.print(f"gateways  {', '.join(info.gateways)}")
    console.print(f"shards    {shards}  ({info.replicas} copies of every expert)")
    if info.availability:
        console.print(info.availability)
    if info.last_error:
        console.print(f"last change: {info.last_error}", style="yellow", markup=False)
