"""What the driver tells the actors; plain values that Ray can carry."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cluster.control.scaling_plan import ScalingPlan
from cluster.control.standing import Spread
from cluster.presets import PresetInputs
from galerne.internal_tls import InternalTls
from galerne.logs import LogSettings
from galerne.topology import Topology
from router.engine.speculation.settings import SpeculationSettings
from router.model.vision_limits import VisionLimits
from router.tracing.settings import TracingSettings
from shards.kernels.formats import WeightFormat
from shards.kernels.kinds import CPU

NAMESPACE = "galerne"


class DeviceRooms(NamedTuple):
    """Bytes for routed experts and adapters on one GPU; None: they are in host memory."""

    gateway: int | None = None
    shard: int | None = None


NO_LIMITS = DeviceRooms()


def controller_name(app_name: str) -> str:
    """Name of a deployment's controller actor."""
    return f"{app_name}-controller"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """One deployment."""

    app_name: str
    checkpoint: Path
    model_name: str
    numerics: str
    experts: WeightFormat
    dense: WeightFormat
    device: str = CPU  # of gateways
    shard_device: str = CPU
    topology: Topology  # the first one
    inputs: PresetInputs  # for the others
    expert_bytes: int  # of one expert of one layer, as it is held
    cluster_token: str = field(repr=False)
    tls: InternalTls | None = None  # of internal ports; None: plain text
    trusts_network: bool = False  # NCCL may leave a host, in plain text
    max_model_len: int
    kv_bytes: int  # per gateway
    gateway_threads: int
    gateway_threads_beside: int | None  # while shards compute on the same cores, if they do
    shard_threads: int
    is_one_node: bool  # then internal ports are on loopback
    scaling: ScalingPlan | None = None  # None: there is no calibration to decide by
    is_auto: bool = False  # the autoscaler chooses the topology from the start
    spread: Spread | None = None  # of the first topology; None: as parts fit
    vision: VisionLimits = field(default_factory=VisionLimits)
    speculation: SpeculationSettings = field(default_factory=SpeculationSettings)
    record: Path | None = None  # on every gateway's host: where its runs are recorded
    adapters: Path | None = None  # on every host: the directory of LoRA adapters
    device_rooms: DeviceRooms = NO_LIMITS
    tracing: TracingSettings | None = None  # None: nothing is traced
    logs: LogSettings = field(default_factory=LogSettings)
    # None: parts end with the process that started them. Else they go on without it for so long,
    # for another one to take them over, and then end themselves.
    orphan_after_s: float | None = None
    serve_app: str = ""  # name of the Serve application that owns it; empty: a process does

    @property
    def controller_name(self) -> str:
        """Name of the controller actor."""
        return controller_name(self.app_name)

    @property
    def groups_name(self) -> str:
        """What the names of its placement groups begin with."""
        return f"{self.app_name}-nodes"

    def actor_name(self, part: str) -> str:
        """Name of a shard's or gateway's actor."""
        return f"{self.app_name}-{part}"
