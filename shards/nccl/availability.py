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

# Two streams of every link and one to compute on have hardware queues of their own, or a kernel
# that waits for a peer would hold up another link's. CUDA has 8 unless its variable says how many,
# and 32 at most. It reads it when a process first uses the GPU, long before there are links:
# launch.py sets it for every part.
_QUEUES_VARIABLE = "CUDA_DEVICE_MAX_CONNECTIONS"
_MAX_QUEUES = 32
_QUEUES_UNLESS_SAID = 8
MAX_LINKS = (_MAX_QUEUES - 1) // 2
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
    except ImportError as error:
        if error.name == "cupy":
            return "cupy is not installed (pip install 'galerne[gpu]')"
        return f"cupy cannot be loaded ({_cause(error)})"
    try:
        nccl = importlib.import_module("cupy.cuda.nccl")
    except ImportError as error:
        return f"cupy has no NCCL ({error})"
    if not getattr(nccl, "available", False):
        return "cupy has no NCCL (pip install nvidia-nccl-cu13)"
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    return ""


def _cause(error: ImportError) -> BaseException:
    """What cupy has wrapped in many lines of advice."""
    return error.__cause__ or error


def queues_environment(given: Mapping[str, str]) -> dict[str, str]:
    """The variable that CUDA reads when a process first uses it; what is ``given`` stays. Pure.

    Source: CUDA's programming guide, environment variables: queues to the device, from 1 to 32.
    """
    return {_QUEUES_VARIABLE: given.get(_QUEUES_VARIABLE, str(_MAX_QUEUES))}


def max_links(environment: Mapping[str, str]) -> int:
    """Links for which a process with these variables has queues, at least one. Pure."""
    said = environment.get(_QUEUES_VARIABLE, "")
    num_queues = int(said) if said.isdecimal() else _QUEUES_UNLESS_SAID
    return min(max((num_queues - 1) // 2, 1), MAX_LINKS)


def nccl_environment(
    num_processors: int, *, trusts_network: bool, given: Mapping[str, str]
) -> dict[str, str]:
    """Variables that NCCL reads once, at its start; what is ``given`` stays. Pure.

    ``num_processors``: multiprocessors of the GPU.

    Source: NCCL's user guide, environment variables, and "Using multiple NCCL communicators
    concurrently": their kernels must all find room on the GPU. Powers of 2: its paths.cc.
    """
    share = max(num_processors // _SHARE_OF_PROCESSORS // MAX_LINKS, 1)
    largest = 1 << (share.bit_length() - 1)  # of sends, NCCL takes the next higher power of 2
    wanted = {"NCCL_MAX_CTAS": str(largest)}
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
