"""What the driver tells the actors; plain values that Ray can carry."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from galerne.topology import Topology
from shards.kernels.formats import WeightFormat

NAMESPACE = "galerne"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """One deployment."""

    app_name: str
    checkpoint: Path
    model_name: str
    numerics: str
    experts: WeightFormat
    dense: WeightFormat
    topology: Topology
    cluster_token: str = field(repr=False)
    max_model_len: int
    kv_bytes: int  # per gateway
    gateway_threads: int
    gateway_threads_beside: int | None  # while shards compute on the same cores
    shard_threads: int
    is_one_node: bool  # then internal ports are on loopback

    @property
    def controller_name(self) -> str:
        """Name of the controller actor."""
        return f"{self.app_name}-controller"

    def actor_name(self, part: str) -> str:
        """Name of a shard's or gateway's actor."""
        return f"{self.app_name}-{part}"
