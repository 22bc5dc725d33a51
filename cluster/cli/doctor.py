"""``galerne doctor``: what this machine gives for a model, and what will be the bottleneck."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from cluster.config import load_config
from shards.cores import PASSIVE_POOLS

_DEFAULTS = load_config(None, {})


def doctor(
    model: Annotated[
        Path | None, typer.Option(help="checkpoint directory; unset: the embedded model")
    ] = None,
    experts: Annotated[
        str | None, typer.Option(help="routed experts held in bf16, int8 or int4; unset: as stored")
    ] = None,
    dense: Annotated[
        str | None, typer.Option(help="projections, shared experts and head: the same choice")
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="of gateways; cuda: not yet run on a GPU")
    ] = "cpu",
    shard_device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="of shards; cuda goes with device cuda")
    ] = "cpu",
    budget_s: Annotated[float, typer.Option(min=1, help="seconds to measure, about")] = 60.0,
    out: Annotated[
        Path | None, typer.Option(help="file of the calibration; unset: in the cache directory")
    ] = None,
    http_port: Annotated[int, typer.Option(help="checked to be free; 0: any")] = (
        _DEFAULTS.http_port
    ),
    grpc_port: Annotated[int, typer.Option(help="checked to be free; 0: any")] = (
        _DEFAULTS.grpc_port
    ),
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure this machine with small random layers of the model's true shape.

    Measures the local machine alone, also where it is one of several nodes of a Ray cluster. Exit
    code 2: something was refused; what could be measured was.
    """
    os.environ.update(PASSIVE_POOLS)  # torch comes with the imports below
    from cluster.cli.doctor_print import as_plain, print_examination
    from cluster.doctor.examine import examine
    from cluster.doctor.gpu import check_devices
    from cluster.doctor.steps import MeasurePlan
    from cluster.doctor.store import default_path, save
    from cluster.plan import held_model

    check_devices(device, shard_device)
    asked = {"model": model, "experts": experts, "dense": dense}
    asked |= {"device": device, "shard_device": shard_device}
    held = held_model(load_config(None, asked))
    errors = Console(stderr=True, highlight=False)
    with errors.status("starting") as status:
        found = examine(
            held,
            MeasurePlan(budget_s=budget_s),
            {"http_port": http_port, "grpc_port": grpc_port},
            lambda stage: status.update(stage),
        )
    stored = found.stored
    held_for = stored.shape, stored.experts, stored.dense, (device, shard_device)
    file = out or default_path(stored.machine, *held_for)
    save(stored, file)
    console = Console()
    if as_json:
        console.print_json(data=as_plain(found, file))
    else:
        print_examination(console, found, file)
    if any(finding.is_refusal for finding in found.findings):
        raise typer.Exit(2)
