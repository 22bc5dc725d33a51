"""``galerne serve``: start a server and keep it until a signal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from cluster.config import (
    InternalTlsSettings,
    RayHeadSettings,
    ServeConfig,
    TlsSettings,
    TracingConfig,
    load_config,
)
from cluster.control.starting import StartReport
from cluster.ingress.frontend_scaling import FrontendSettings
from cluster.server import Server
from cluster.shutdown import Shutdown
from galerne import logs


def _option(name: str, *flags: str) -> Any:  # noqa: ANN401 - typer's own type
    """A flag whose help is the setting's description."""
    return typer.Option(*flags, help=ServeConfig.model_fields[name].description)


def _inner(settings: type[BaseModel], name: str) -> Any:  # noqa: ANN401 - typer's own type
    """The same for a setting of a mapping."""
    return typer.Option(help=settings.model_fields[name].description)


def serve(
    model: Annotated[Path | None, _option("model")] = None,
    shards: Annotated[int | None, _option("shards")] = None,
    gateways: Annotated[int | None, _option("gateways")] = None,
    replicas: Annotated[int | None, _option("replicas")] = None,
    mode: Annotated[str | None, _option("mode")] = None,
    transport: Annotated[str | None, _option("transport")] = None,
    trusted_network: Annotated[str | None, _option("trusted_network")] = None,
    micro_batches: Annotated[int | None, _option("micro_batches")] = None,
    ttft_p95_s: Annotated[float | None, _option("ttft_p95_s")] = None,
    inter_token_p95_s: Annotated[float | None, _option("inter_token_p95_s")] = None,
    max_nodes: Annotated[int | None, _option("max_nodes")] = None,
    idle_to_zero_s: Annotated[float | None, _option("idle_to_zero_s")] = None,
    calibration: Annotated[Path | None, _option("calibration")] = None,
    numerics: Annotated[str | None, _option("numerics")] = None,
    experts: Annotated[str | None, _option("experts")] = None,
    dense: Annotated[str | None, _option("dense")] = None,
    device: Annotated[str | None, _option("device")] = None,
    shard_device: Annotated[str | None, _option("shard_device")] = None,
    host: Annotated[str | None, _option("host")] = None,
    http_port: Annotated[int | None, _option("http_port")] = None,
    grpc_port: Annotated[int | None, _option("grpc_port")] = None,
    max_frontends: Annotated[int | None, _inner(FrontendSettings, "max")] = None,
    address: Annotated[str | None, _option("address")] = None,
    ray_head_host: Annotated[str | None, _inner(RayHeadSettings, "host")] = None,
    ray_head_port: Annotated[int | None, _inner(RayHeadSettings, "port")] = None,
    await_nodes: Annotated[int | None, _option("await_nodes")] = None,
    ray_storage: Annotated[str | None, _option("ray_storage")] = None,
    max_model_len: Annotated[int | None, _option("max_model_len")] = None,
    kv_memory: Annotated[str | None, _option("kv_memory")] = None,
    max_num_seqs: Annotated[int | None, _option("max_num_seqs")] = None,
    max_batched_tokens: Annotated[int | None, _option("max_batched_tokens")] = None,
    served_model_name: Annotated[str | None, _option("served_model_name")] = None,
    reasoning_effort: Annotated[str | None, _option("reasoning_effort")] = None,
    api_keys_file: Annotated[Path | None, _option("api_keys_file")] = None,
    image_url_hosts: Annotated[
        list[str] | None, _option("image_url_hosts", "--image-url-host")
    ] = None,
    image_url_networks: Annotated[
        list[str] | None, _option("image_url_networks", "--image-url-network")
    ] = None,
    admin_keys_file: Annotated[Path | None, _option("admin_keys_file")] = None,
    audit_log: Annotated[Path | None, _option("audit_log")] = None,
    tls_cert: Annotated[Path | None, _inner(TlsSettings, "cert")] = None,
    tls_key: Annotated[Path | None, _inner(TlsSettings, "key")] = None,
    tls_client_ca: Annotated[Path | None, _inner(TlsSettings, "client_ca")] = None,
    internal_tls_cert: Annotated[Path | None, _inner(InternalTlsSettings, "cert")] = None,
    internal_tls_key: Annotated[Path | None, _inner(InternalTlsSettings, "key")] = None,
    internal_tls_ca: Annotated[Path | None, _inner(InternalTlsSettings, "ca")] = None,
    request_timeout_s: Annotated[float | None, _option("request_timeout_s")] = None,
    dashboard_port: Annotated[int | None, _option("dashboard_port")] = None,
    insecure_network: Annotated[
        bool | None, _option("insecure_network", "--insecure-network")
    ] = None,
    speculative: Annotated[str | None, _option("speculative")] = None,
    num_draft_tokens: Annotated[int | None, _option("num_draft_tokens")] = None,
    draft_model: Annotated[Path | None, _option("draft_model")] = None,
    record: Annotated[Path | None, _option("record")] = None,
    adapters: Annotated[Path | None, _option("adapters")] = None,
    adapter_memory: Annotated[str | None, _option("adapter_memory")] = None,
    trace_endpoint: Annotated[str | None, _inner(TracingConfig, "endpoint")] = None,
    trace_sample_ratio: Annotated[float | None, _inner(TracingConfig, "sample_ratio")] = None,
    trace_slow_s: Annotated[float | None, _inner(TracingConfig, "slow_s")] = None,
    log_format: Annotated[str | None, _option("log_format")] = None,
    log_level: Annotated[str | None, _option("log_level")] = None,
    drain_s: Annotated[float | None, _option("drain_s")] = None,
    start_timeout_s: Annotated[float | None, _option("start_timeout_s")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML of these settings; flags win over it")
    ] = None,
) -> None:
    """Serve a checkpoint until Ctrl-C or SIGTERM."""
    settings = settings_of(locals())
    logs.set_up(settings.logs, "server")
    shutdown = Shutdown()
    shutdown.install()
    console = Console(stderr=True)
    with Server(settings, shutdown) as server:
        try:
            start_with_progress(server, console)
            announce(server, Console())
            shutdown.wait()
        except KeyboardInterrupt:
            pass
        console.print("draining and stopping", style="dim")


def settings_of(flags: Mapping[str, Any]) -> ServeConfig:
    """The settings of these flags of ``serve``, and of the file ``config`` that they name.

    Raises:
        ConfigError: One is wrong; names it.
    """
    told = {name: value for name, value in flags.items() if name != "config"}
    return load_config(flags["config"], told)


def start_with_progress(server: Server, console: Console) -> None:
    """Start a server, showing what happens and how far each part has loaded."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    is_seen = console.is_terminal  # else bars cost a thread that draws, and nobody looks
    with Progress(*columns, console=console, transient=True, disable=not is_seen) as bars:
        tasks: dict[str, TaskID] = {}

        def on_report(report: StartReport) -> None:
            for part, (what, done, of) in report.progress.items():
                if part not in tasks:
                    tasks[part] = bars.add_task(part)
                bars.update(tasks[part], description=f"{part} {what}", completed=done, total=of)

        def on_step(step: str) -> None:
            console.print(step, style="dim", markup=False, highlight=False, soft_wrap=True)

        server.start(on_step, on_report)


@contextmanager
def private_server(console: Console, **settings: Any) -> Iterator[Server]:  # noqa: ANN401
    """A server of a command's own, experts in shards, free ports; ends with the block."""
    settings |= {"transport": "shm", "http_port": 0, "grpc_port": 0}
    shutdown = Shutdown()
    shutdown.install()
    with Server(load_config(None, settings), shutdown) as server:
        started = time.monotonic()
        start_with_progress(server, console)
        announce(server, console)
        console.print(f"started in {time.monotonic() - started:.1f} s", style="dim")
        yield server


def announce(server: Server, console: Console) -> None:
    """The one line that says that clients are answered, and where."""
    assert server.ingress is not None
    assert server.plan is not None
    ingress, topology = server.ingress, server.plan.spec.topology
    if ingress.note:
        Console(stderr=True).print(ingress.note, style="yellow", highlight=False)
    if server.head_note:
        Console(stderr=True).print(server.head_note, style="yellow", highlight=False)
    if server.dashboard_note:
        Console(stderr=True).print(server.dashboard_note, highlight=False, soft_wrap=True)
    console.print(
        f"ready: {server.plan.spec.model_name} on {' and '.join(server.urls)} "
        f"({topology.mode.value}, {len(topology.gateways)} gateway(s), "
        f"{len(topology.shards)} shard(s) by {topology.transport.value}, "
        f"{ingress.mode})",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
