"""``galerne status``: the shape and load of a running server."""

from __future__ import annotations

import contextlib
import threading
from datetime import datetime
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.cli.client import (
    CALL_TIMEOUT_S,
    DEFAULT_TARGET,
    ApiKey,
    Target,
    connect,
    metadata,
    wide_console,
)
from galerne.errors import ConfigError
from galerne.units import size_text
from galerne.v1 import inference_pb2 as pb


class Answers(NamedTuple):
    """What a server says of itself."""

    server: pb.ServerInfo
    load: pb.Load
    model: pb.ModelInfo


def status(
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = "",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="again and again, until Ctrl-C")] = False,
    interval_s: Annotated[float, typer.Option(min=0.1, help="seconds between looks")] = 2.0,
) -> None:
    """Show gateways, shards, experts, load and epoch."""
    console = wide_console()
    if watch:
        if as_json:
            raise ConfigError("json", as_json, "is for one look, without --watch")
        _watch(console, target, api_key, interval_s)
        return
    answers = _ask(target, api_key)
    if as_json:
        from google.protobuf.json_format import MessageToDict

        console.print_json(data={name: MessageToDict(m) for name, m in answers._asdict().items()})
        return
    console.print(_shown(answers))


def _ask(target: str, api_key: str) -> Answers:
    with connect(target) as stub:
        options: Any = {"metadata": metadata(api_key), "timeout": CALL_TIMEOUT_S}
        return Answers(
            stub.GetServerInfo(pb.GetServerInfoRequest(), **options),
            stub.GetLoad(pb.GetLoadRequest(), **options),
            stub.GetModelInfo(pb.GetModelInfoRequest(), **options),
        )


def _watch(console: Console, target: str, api_key: str, interval_s: float) -> None:
    """Until Ctrl-C; a server that does not answer is shown as it was, and why.

    Raises:
        ConfigError: It does not answer at the first look.
    """
    shown = _shown(_ask(target, api_key))
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(shown, console=console, auto_refresh=False) as live,
    ):
        while True:
            threading.Event().wait(interval_s)
            now = datetime.now().astimezone().strftime("%H:%M:%S")
            try:
                shown = _shown(_ask(target, api_key))
                live.update(Group(shown, Text(now, "dim")), refresh=True)
            except ConfigError as error:
                live.update(Group(shown, Text(f"{now} {error}", "bold red")), refresh=True)


def _shown(answers: Answers) -> Group:
    server, load, model = answers
    lines = (
        f"[bold]{model.name}[/]  {model.num_layers} layers, {model.num_experts} experts "
        f"(top {model.num_experts_per_tok}), up to {model.max_model_len} tokens, "
        f"{model.numerics_profile}",
        f"mode {server.mode}  epoch {server.epoch}  transport {server.transport}  "
        f"micro-batches {server.micro_batches}  at most {server.max_num_seqs} sequences and "
        f"{server.max_batched_tokens} tokens a step",
        f"running {load.running}  waiting {load.waiting} of {load.max_waiting}  "
        f"KV blocks {load.kv_blocks_used} of {load.kv_blocks}  preemptions {load.preemptions}  "
        f"prefix hits {load.prefix_hit_tokens} of {load.prefix_query_tokens} tokens",
    )
    tables = [_gateways(server)]
    if any(part.kind == "shard" for part in server.parts):
        tables.append(_shards(server))
    return Group(*lines, *tables)


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
