"""Launches recorded as a CUDA graph: many kernels by one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Out = TypeVar("Out")


def recorded(work: Callable[[], Out], device: torch.device) -> tuple[torch.cuda.CUDAGraph, Out]:
    """Compute once, so that all is compiled, then record; and what every replay writes to.

    What ``work`` returns must be kept as long as the graph. Not yet run on a GPU.
    """
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Another thread may load experts meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        out = work()
    return graph, out
