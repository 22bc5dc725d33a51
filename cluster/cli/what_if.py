"""``galerne what-if``: the topology that a load would want, and what every other would give."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from cluster.cli.calibrated import (
    OUTPUT_TOKENS,
    PROMPT_TOKENS,
    CalibrationFile,
    Dense,
    Device,
    Experts,
    InterTokenP95,
    MinCopies,
    Model,
    MoreNodes,
    ShardDevice,
    TtftP95,
    find_stored,
    settings_of,
    source_of,
    with_gpus,
)
from cluster.cli.client import CALL_TIMEOUT_S, ApiKey, connect_cluster, metadata, wide_console
from galerne.errors import ConfigError

if TYPE_CHECKING:
    from cluster.config import ServeConfig
    from cluster.doctor.store import StoredCalibration
    from router.api.cluster_port import WhatIfFacts, WhatIfQuestion

_LOCAL_ONLY = (
    *("model", "experts", "dense", "calibration"),
    *("device", "shard_device", "gpus", "gpu_gb", "trusted_network"),
)


def what_if(
    rate: Annotated[
        float | None, typer.Option(min=0, help="requests a second; unset, with --server: as now")
    ] = None,
    prompt: Annotated[
        float | None, typer.Option(min=1, help="tokens of a prompt, mean; unset: 512, or as now")
    ] = None,
    output: Annotated[
        float | None, typer.Option(min=1, help="tokens of an answer, mean; unset: 128, or as now")
    ] = None,
    mode: Annotated[
        Literal["auto", "latency", "throughput"] | None,
        typer.Option(help="what to choose by; unset: auto, or as set"),
    ] = None,
    nodes: MoreNodes = 0,
    ttft_p95: TtftP95 = None,
    inter_token_p95: InterTokenP95 = None,
    min_copies: MinCopies = None,
    arrival_cv2: Annotated[
        float | None,
        typer.Option(min=0, help="of the time between requests; 1: Poisson, more: bursts"),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(help="gRPC address of a server to ask; unset: by this machine's calibration"),
    ] = None,
    api_key: ApiKey = "",
    model: Model = None,
    experts: Experts = None,
    dense: Dense = None,
    calibration: CalibrationFile = None,
    device: Device = None,
    shard_device: ShardDevice = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="of each machine; unset: as measured")
    ] = None,
    gpu_gb: Annotated[
        float | None, typer.Option(min=1e-3, help="free on one GPU, 10^9 bytes; unset: as measured")
    ] = None,
    trusted_network: Annotated[
        Literal["nccl"] | None, typer.Option(help="what may leave a machine in plain text")
    ] = None,
    num_shown: Annotated[int, typer.Option("--show", min=1, help="candidates in the table")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, all candidates")] = False,
) -> None:
    """Predict; nothing is started or changed. Exit code 2: no topology keeps all limits."""
    from router.api.cluster_port import WhatIfQuestion

    question = WhatIfQuestion(
        requests_per_s=rate,
        prompt_tokens=prompt,
        output_tokens=output,
        arrival_cv2=arrival_cv2,
        mode=mode,
        nodes=nodes,
        ttft_p95_s=ttft_p95,
        inter_token_p95_s=inter_token_p95,
        min_copies=min_copies,
    )
    console = wide_console()
    if server is None:
        asked_for = (model, experts, dense, calibration, (device, shard_device))
        stored = with_gpus(find_stored(*asked_for), gpus, gpu_gb)
        trusts = trusted_network == "nccl"
        of = stored, settings_of(*asked_for)
        answer = _plan(question, *of, num_shown, trusts_network=trusts)
        source = source_of(stored)
    else:
        of_model = (model, experts, dense, calibration)
        of_gpus = (device, shard_device, gpus, gpu_gb, trusted_network)
        given = dict(zip(_LOCAL_ONLY, (*of_model, *of_gpus), strict=True))
        for name, value in given.items():
            if value is not None:
                raise ConfigError(name, value, "goes without --server, which has its own")
        answer = _ask(question, server, api_key)
        source = f"by the calibration of {server}"
    if as_json:
        console.print_json(answer.json)
    else:
        _print(console, answer, num_shown)
        console.print(source, style="dim", highlight=False, markup=False)
    if not answer.chosen:
        raise typer.Exit(2)


def _ask(question: WhatIfQuestion, server: str, api_key: str) -> WhatIfFacts:
    """A server's answer; its message has the fields of the facts."""
    from galerne.v1 import cluster_pb2 as pb

    told = {n: v for n in question.__slots__ if (v := getattr(question, n)) is not None}
    with connect_cluster(server) as stub:
        answer: WhatIfFacts = stub.WhatIf(
            pb.WhatIfRequest(**told), metadata=metadata(api_key), timeout=CALL_TIMEOUT_S
        )
        return answer


def _plan(
    question: WhatIfQuestion,
    stored: StoredCalibration,
    config: ServeConfig,
    num_shown: int,
    *,
    trusts_network: bool,
) -> WhatIfFacts:
    """The answer by a calibration of this machine, and ``nodes`` more like it.

    Raises:
        ConfigError: No rate is given.
    """
    from cluster.calibrations import measured_cluster
    from cluster.control.explain import asked, what_if_facts
    from cluster.planning.planner import plan

    if question.requests_per_s is None:
        raise ConfigError("rate", None, "must be given: only a server (--server) knows the load")
    wanted = asked(
        replace(
            question,
            prompt_tokens=question.prompt_tokens or PROMPT_TOKENS,
            output_tokens=question.output_tokens or OUTPUT_TOKENS,
        )
    )
    cluster = measured_cluster(stored, config, wanted.nodes, trusts_network=trusts_network)
    found = plan(
        stored.shape,
        stored.calibration,
        cluster,
        wanted.objectives,
        wanted.load,
        mode=wanted.mode,
    )
    about = {"measured_at": stored.measured_at.isoformat(), "drift": stored.drift}
    return what_if_facts(found, num_shown, about)


def _print(console: Console, answer: WhatIfFacts, num_shown: int) -> None:
    from cluster.cli.candidates import print_candidates

    style = "bold" if answer.chosen else "bold red"
    first, _, rest = answer.text.partition("\n")
    console.print(first, style=style, highlight=False, markup=False)
    if rest:
        console.print(rest, highlight=False, markup=False)
    print_candidates(console, answer.candidates[:num_shown], answer.num_candidates)
