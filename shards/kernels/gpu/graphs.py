"""Launches recorded as CUDA graphs: many kernels by one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch

Out = TypeVar("Out")
# Memory that graphs have in common for what they compute on the way. Safe where they are replayed
# one at a time, in whatever order, and none reads what another has computed on its way: torch keeps
# apart what a capture returned for as long as it is held. Source: torch's notes on CUDA semantics,
# "Graph memory management", and pytorch#166975.
Pool: TypeAlias = Any  # a handle of torch's


def shared_pool() -> Pool:
    """A new one. It must not outlive its graphs: with the last of them torch gives it up."""
    return torch.cuda.graph_pool_handle()


def recorded(
    work: Callable[[], Out], device: torch.device, pool: Pool | None = None
) -> tuple[torch.cuda.CUDAGraph, Out]:
    """Compute once, so that all is compiled, then record; and what every replay writes to.

    What ``work`` reads and does not make itself must be kept as long as the graph, and what it
    returns as long as that is read. ``pool`` unset: one of its own. Not yet run on a GPU.
    """
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Another thread may load experts or an adapter meanwhile.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        out = work()
    return graph, out
