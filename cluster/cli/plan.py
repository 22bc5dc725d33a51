"""``galerne plan``: what ``galerne serve`` would start."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cluster.cli.serve import serve, settings_of

if TYPE_CHECKING:
    from cluster.config import ServeConfig
    from cluster.nodes import Node
    from cluster.plan import ServePlan

Command = Callable[..., None]


def _with_flags_of(command: Command) -> Callable[[Command], Command]:
    """The decorated command takes the same flags: typer reads them from a signature."""

    def decorate(decorated: Command) -> Command:
        decorated.__signature__ = inspect.signature(command, eval_str=True)  # type: ignore[attr-defined]
        return decorated

    return decorate


@_with_flags_of(serve)
def plan(**flags: Any) -> None:  # noqa: ANN401 - those of ``serve``
    """Check the settings of ``galerne serve`` and print what it would start; starts nothing."""
    from cluster.scaling import find_calibration, plan_scaled

    settings = settings_of(flags)
    alone: AbstractContextManager[list[Node]] = nullcontext([])
    with alone if settings.address is None else _joined(settings.address) as nodes:
        planned = plan_scaled(settings, "plan", nodes, find_calibration(settings))
    console = Console(highlight=False)
    for line in describe(settings, planned):
        console.print(line, markup=False, soft_wrap=True)


def describe(settings: ServeConfig, planned: ServePlan) -> list[str]:
    """Model, mode, topology, memory and availability, a line each. Pure."""
    from galerne.units import size_text

    spec, topology = planned.spec, planned.spec.topology
    shards = topology.shard_processes
    layout = f"{len(shards)} by {topology.transport.value}, {settings.replicas} copies of an expert"
    return [
        f"model         {spec.model_name}: {spec.checkpoint}, {spec.numerics}, "
        f"experts {spec.experts.label}, dense {spec.dense.label}",
        f"mode          {'auto, begins in ' if spec.is_auto else ''}{topology.mode.value}: "
        f"at most {topology.max_num_seqs} sequences and "
        f"{topology.max_batched_tokens} tokens a step",
        f"machines      {spec.inputs.num_nodes}, {spec.inputs.num_cores} cores here",
        f"gateways      {len(topology.gateways)}, {spec.gateway_threads} threads each",
        f"shards        {layout if shards else 'none: gateways hold the experts'}",
        f"weights       {size_text(planned.weight_bytes)} in all processes; "
        f"{size_text(max(planned.free_bytes, 0))} are left here",
        f"cache         {planned.kv_note}",
        f"availability  {_availability(planned)}",
    ]


def _availability(planned: ServePlan) -> str:
    from cluster.placement.availability import availability

    topology, num_nodes = planned.spec.topology, planned.spec.inputs.num_nodes
    shards = topology.shard_processes
    if not shards:
        gateways = len(topology.gateways)
        return f"every gateway holds all experts; {gateways - 1} of {gateways} may be lost"
    if num_nodes == 1:
        return availability(topology.placement, {"this machine": shards}).text
    copies = topology.placement.num_replicas
    return f"{copies} copies of an expert, on different machines as far as there are enough"


@contextmanager
def _joined(address: str) -> Iterator[list[Node]]:
    """Machines of a Ray cluster that runs.

    Raises:
        ConfigError: It cannot be joined.
    """
    from cluster.actors.launch_spec import NAMESPACE
    from cluster.nodes import alive_nodes
    from cluster.runtime import join_ray

    runtime = join_ray(address, namespace=NAMESPACE)
    try:
        yield alive_nodes()
    finally:
        runtime.leave()
