"""Whether a topology can go from GPU to GPU here. Who asks for it by name hears why not."""

from __future__ import annotations

from galerne.errors import ConfigError
from galerne.topology import LinkTransport, Topology
from shards.nccl.availability import nccl_problem


def check_nccl(topology: Topology, num_nodes: int) -> None:
    """On one machine: it has NCCL, and a GPU for every gateway and shard.

    Of several, each process says for itself what it lacks. Which links leave a host is not known
    before parts are placed: those go by gRPC unless the network is trusted, and the log says so.

    Raises:
        ConfigError: It cannot.
    """
    if topology.transport is not LinkTransport.NCCL or num_nodes > 1:
        return
    import torch  # late: no plan but this one needs it

    problem = nccl_problem() or gpu_problem(len(topology.parts), torch.cuda.device_count())
    if problem:
        raise ConfigError("transport", topology.transport.value, problem)


def gpu_problem(num_parts: int, num_gpus: int) -> str:
    """Why so many GPUs are too few; empty if they are enough. Pure."""
    if num_parts <= num_gpus:
        return ""
    return f"{num_parts} gateways and shards need a GPU each, and there are {num_gpus} here"
