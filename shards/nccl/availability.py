"""Whether NCCL can be used here, and with whom. What it carries is not encrypted."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from galerne.errors import GalerneError
from galerne.hello import NcclOffer

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NETWORK = Path("/proc/self/ns/net")

# A process: two streams of every link and one to compute on have hardware queues of their own (32
# at most), or a kernel that waits for a peer would hold up another link's.
MAX_LINKS = 15
_MAX_CONNECTIONS = 32
# Kernels of all links spin at once, each for its peer. If they filled the GPU, those that the peers
# wait for might find no room.
_SHARE_OF_PROCESSORS = 2


class NcclUnavailableError(GalerneError):
    """NCCL cannot be used in this process."""

    status = "FAILED_PRECONDITION"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"NCCL cannot be used: {self.reason}"


def nccl_problem() -> str:
    """Why this process cannot use NCCL; empty if it can. Loads torch, and cupy if there is one."""
    import torch

    try:
        importlib.import_module("cupy")
        nccl = importlib.import_module("cupy.cuda.nccl")
    except ImportError as error:
        if error.name in ("cupy", None):
            return "cupy is not installed (pip install 'galerne[gpu]')"
        return f"cupy has no NCCL ({error})"
    if not getattr(nccl, "available", False):
        return "cupy has no NCCL (pip install nvidia-nccl-cu13)"
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    return ""


def nccl_environment(
    num_processors: int, *, trusts_network: bool, given: Mapping[str, str]
) -> dict[str, str]:
    """Variables that NCCL and CUDA read once, at their start; what is ``given`` stays. Pure.

    ``num_processors``: multiprocessors of the GPU.

    Source: NCCL's user guide, environment variables, and "Using multiple NCCL communicators
    concurrently": their kernels must all find room on the GPU.
    """
    wanted = {
        "NCCL_MAX_CTAS": str(max(num_processors // _SHARE_OF_PROCESSORS // MAX_LINKS, 1)),
        "CUDA_DEVICE_MAX_CONNECTIONS": str(_MAX_CONNECTIONS),
    }
    if not trusts_network:  # "=": this interface, not those whose names begin so
        wanted["NCCL_SOCKET_IFNAME"] = "=lo"
    return {name: value for name, value in wanted.items() if name not in given}


@cache
def host_name() -> str:
    """What processes have in common that share a kernel and its loopback; empty: unknown.

    Pods of one machine do not: NCCL could not reach from one to the other without the network.
    """
    try:
        return f"{_BOOT_ID.read_text().strip()}/{_NETWORK.stat().st_ino}"
    except OSError:
        return ""


def refusal(offer: NcclOffer, *, host: str, trusts_network: bool) -> str:
    """Why a communicator must not be joined from ``host``; empty if it may. Pure."""
    if offer.host and offer.host == host:
        return ""
    if offer.trusts_network and trusts_network:
        return ""
    return (
        "the gateway is on another host or pod, and NCCL is not encrypted "
        "(--trusted-network nccl allows it)"
    )
