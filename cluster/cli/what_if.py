"""``galerne what-if``: the topology that a load would want, and what every other would give."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

if TYPE_CHECKING:
    from cluster.doctor.store import StoredCalibration
    from cluster.planning.planner import Plan


def what_if(
    rate: Annotated[float, typer.Option(min=0, help="requests a second")],
    prompt: Annotated[float, typer.Option(min=1, help="tokens of a prompt, mean")] = 512,
    output: Annotated[float, typer.Option(min=1, help="tokens of an answer, mean")] = 128,
    mode: Annotated[
        Literal["auto", "latency", "throughput"], typer.Option(help="what to choose by")
    ] = "auto",
    nodes: Annotated[
        int, typer.Option(min=0, help="more machines like this one, for shards (gRPC)")
    ] = 0,
    ttft_p95: Annotated[float | None, typer.Option(min=0, help="at most, seconds")] = None,
    inter_token_p95: Annotated[float | None, typer.Option(min=0, help="at most, seconds")] = None,
    node_weight: Annotated[
        float, typer.Option(min=0, help="of machines against time in auto; large: the fewest")
    ] = 1.0,
    min_copies: Annotated[int, typer.Option(min=1, help="of every expert")] = 1,
    arrival_cv2: Annotated[
        float, typer.Option(min=0, help="of the time between requests; 1: Poisson, more: bursts")
    ] = 1.0,
    model: Annotated[
        Path | None, typer.Option(help="checkpoint directory; unset: the embedded model")
    ] = None,
    experts: Annotated[str | None, typer.Option(help="bf16, int8 or int4; unset: stored")] = None,
    dense: Annotated[str | None, typer.Option(help="bf16, int8 or int4; unset: stored")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="of galerne doctor; unset: this machine's last one")
    ] = None,
    num_shown: Annotated[int, typer.Option("--show", min=1, help="candidates in the table")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, all candidates")] = False,
) -> None:
    """Predict; nothing is started or changed. Exit code 2: no topology keeps all limits."""
    import psutil

    from cluster.cli.what_if_print import as_plain, print_plan
    from cluster.planning.cluster_shape import ClusterShape
    from cluster.planning.load import Load, Objectives
    from cluster.planning.planner import plan
    from galerne.topology import LinkTransport, Mode

    stored = _calibration(model, experts, dense, calibration)
    between = {LinkTransport.SHM, LinkTransport.GRPC} if nodes else {LinkTransport.SHM}
    node_bytes = float(psutil.virtual_memory().total)
    cluster = ClusterShape(
        gateway_nodes=1,
        gateway_node_bytes=node_bytes,
        cores_per_node=stored.num_cores,
        transports=frozenset({LinkTransport.LOCAL, *between & stored.calibration.links.keys()}),
        shard_nodes=nodes,
        shard_node_bytes=node_bytes,
    )
    load = Load(
        requests_per_s=rate, prompt_tokens=prompt, output_tokens=output, arrival_cv2=arrival_cv2
    )
    objectives = Objectives(
        ttft_p95_s=ttft_p95,
        inter_token_p95_s=inter_token_p95,
        min_copies=min_copies,
        node_weight=node_weight,
    )
    chosen_by = None if mode == "auto" else Mode(mode)
    found: Plan = plan(stored.shape, stored.calibration, cluster, objectives, load, mode=chosen_by)
    console = Console()
    if as_json:
        console.print_json(data=as_plain(found, stored))
    else:
        print_plan(console, found, stored, num_shown)
    if found.chosen is None:
        raise typer.Exit(2)


def _calibration(
    model: Path | None, experts: str | None, dense: str | None, file: Path | None
) -> StoredCalibration:
    """Raises ConfigError if there is none for this model and these formats."""
    import platform

    from cluster.config import load_config
    from cluster.doctor.store import default_path, load
    from cluster.plan import held_model
    from galerne.errors import ConfigError

    asked = {"model": model, "experts": experts, "dense": dense}
    held = held_model(load_config(None, asked))
    measured = (held.shape, held.experts, held.dense)
    path = file or default_path(platform.node(), *measured)
    if not path.exists():
        raise ConfigError("calibration", path, "not measured yet: run galerne doctor first")
    return load(path, *measured)
