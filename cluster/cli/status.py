"""``galerne status``: the shape and load of a running server."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from cluster.cli.client import (
    CALL_TIMEOUT_S,
    DEFAULT_TARGET,
    ApiKey,
    Target,
    connect,
    metadata,
    wide_console,
)
from galerne.units import size_text
from galerne.v1 import inference_pb2 as pb


def status(
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = "",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show gateways, shards, experts, load and epoch."""
    console = wide_console()
    with connect(target) as stub:
        keys = metadata(api_key)
        server = stub.GetServerInfo(
            pb.GetServerInfoRequest(), metadata=keys, timeout=CALL_TIMEOUT_S
        )
        load = stub.GetLoad(pb.GetLoadRequest(), metadata=keys, timeout=CALL_TIMEOUT_S)
        model = stub.GetModelInfo(pb.GetModelInfoRequest(), metadata=keys, timeout=CALL_TIMEOUT_S)
    if as_json:
        from google.protobuf.json_format import MessageToDict

        answers = {"server": server, "load": load, "model": model}
        console.print_json(data={name: MessageToDict(m) for name, m in answers.items()})
        return
    console.print(
        f"[bold]{model.name}[/]  {model.num_layers} layers, {model.num_experts} experts "
        f"(top {model.num_experts_per_tok}), up to {model.max_model_len} tokens, "
        f"{model.numerics_profile}",
        highlight=False,
    )
    console.print(
        f"mode {server.mode}  epoch {server.epoch}  transport {server.transport}  "
        f"micro-batches {server.micro_batches}  at most {server.max_num_seqs} sequences and "
        f"{server.max_batched_tokens} tokens a step",
        highlight=False,
    )
    console.print(
        f"running {load.running}  waiting {load.waiting} of {load.max_waiting}  "
        f"KV blocks {load.kv_blocks_used} of {load.kv_blocks}  preemptions {load.preemptions}  "
        f"prefix hits {load.prefix_hit_tokens} of {load.prefix_query_tokens} tokens",
        highlight=False,
    )
    console.print(_gateways(server))
    if any(part.kind == "shard" for part in server.parts):
        console.print(_shards(server))


def _gateways(server: pb.ServerInfo) -> Table:
    table = Table("gateway", "state", "pid", "restarts", "memory", "KV tokens", "steps", "links up")
    for part in server.parts:
        if part.kind == "gateway":
            up = sum(state != "down" for state in part.links.values())
            table.add_row(
                part.id,
                _state(part),
                str(part.pid),
                str(part.restarts),
                size_text(part.rss_bytes),
                str(part.kv_tokens),
                str(part.steps),
                f"{up} of {len(part.links)}",
            )
    return table


def _shards(server: pb.ServerInfo) -> Table:
    table = Table("shard", "state", "pid", "restarts", "memory", "experts", "weights", "rows")
    for part in server.parts:
        if part.kind == "shard":
            table.add_row(
                part.id,
                _state(part),
                str(part.pid),
                str(part.restarts),
                size_text(part.rss_bytes),
                str(part.experts),
                size_text(part.resident_bytes),
                str(part.rows),
            )
    return table


def _state(part: pb.PartInfo) -> str:
    if not part.is_live:
        return "gone"  # no heartbeat lately
    return part.unready_reason or "ready"
