"""What a gateway needs to start."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from galerne.adapters import AdapterInfo
from galerne.errors import ConfigError
from galerne.ids import GatewayId
from galerne.internal_tls import InternalTls
from galerne.topology import LinkTransport, Topology
from router.engine.speculation.settings import SpeculationSettings
from router.exchange.deadline import ExchangeConfig
from router.model.vision_limits import VisionLimits
from router.tracing.settings import TracingSettings
from shards.kernels.formats import WeightFormat
from shards.kernels.kinds import CPU, Kernels, kernels_on, triton_family
from shards.kernels.native.library import native_kernels

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Settings of one gateway."""

    gateway_id: GatewayId
    checkpoint: Path
    model_name: str
    numerics: str  # bf16: the serving mode; fp32: the same path in float32
    topology: Topology
    cluster_token: str = field(repr=False)
    tls: InternalTls | None = None  # with shards and frontends; None: plain text
    max_model_len: int
    kv_bytes: int  # of the latent cache
    max_waiting: int = 1024
    max_chunk_tokens: int = 512
    num_threads: int = 1
    num_beside: int | None = None  # threads while the experts are away; unset: as many
    experts: WeightFormat = WeightFormat.BF16  # routed ones, here or on the shards
    dense: WeightFormat = WeightFormat.BF16  # projections, shared experts, head
    device: str = CPU  # of attention, cache and dense weights, and of experts in this process
    shard_device: str = CPU  # of experts elsewhere
    host: str = "127.0.0.1"
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    vision: VisionLimits = field(default_factory=VisionLimits)
    record: Path | None = None  # where the run is recorded, if it is
    adapters_root: Path | None = None  # adapters lie in directories of it
    adapters: tuple[AdapterInfo, ...] = ()  # to be loaded before it serves
    device_room: int | None = None  # bytes for experts and adapters on its GPU; None: no limit
    speculation: SpeculationSettings = field(default_factory=SpeculationSettings)
    tracing: TracingSettings | None = None  # None: nothing is traced
    trusts_network: bool = False  # rows may go to other hosts by NCCL, in plain text

    def __post_init__(self) -> None:
        if self.numerics not in DTYPES:
            raise ConfigError("numerics", self.numerics, f"must be one of {', '.join(DTYPES)}")
        if self.device == CPU and self.shard_device != CPU:
            raise ConfigError(
                "shard_device", self.shard_device, f"goes with the same device, {CPU}"
            )

    @property
    def dtype(self) -> torch.dtype:
        """Number format of weights, activations and cache."""
        return DTYPES[self.numerics]

    @property
    def profile(self) -> str:
        """Name of the arithmetic of a whole step."""
        return numerics_profile(self.numerics, self.experts, self.dense, self.device, self._away)

    @property
    def link_profile(self) -> str:
        """What shards must have in common with this gateway."""
        devices = self.device, self.shard_device
        return link_profile(self.numerics, self.experts, self.dense, *devices)

    @property
    def _away(self) -> str:
        is_local = self.topology.transport is LinkTransport.LOCAL
        return self.device if is_local else self.shard_device


def numerics_profile(
    numerics: str,
    experts: WeightFormat,
    dense: WeightFormat,
    device: str = CPU,
    expert_device: str = CPU,
) -> str:
    """Name of the arithmetic: formats, kernel families of our own and of torch for the rest."""
    name = _formats(numerics, experts, dense)
    if kernels_on(device) is Kernels.HOST:
        return f"{name}-{'-'.join(_host_families(numerics))}"
    name += f"-{triton_family(device)}"
    return name if expert_device == device else f"{name}+{_expert_family(numerics, expert_device)}"


def link_profile(
    numerics: str, experts: WeightFormat, dense: WeightFormat, device: str, shard_device: str
) -> str:
    """What a gateway and its shards must have in common; either names it without the other.

    Where the gateway is on a GPU it is the experts' arithmetic alone: they need not know of which
    kind the GPU is.
    """
    if kernels_on(device) is Kernels.HOST:
        return numerics_profile(numerics, experts, dense)
    family = _expert_family(numerics, shard_device)
    return f"{_formats(numerics, experts, dense)}-experts-{family}"


def _formats(numerics: str, experts: WeightFormat, dense: WeightFormat) -> str:
    for name, held in (("experts", experts), ("dense", dense)):
        if held is not WeightFormat.BF16:
            numerics += f"-{name}_{held.label}"
    return numerics


def _expert_family(numerics: str, device: str) -> str:
    on_host = kernels_on(device) is Kernels.HOST
    return _host_families(numerics)[0] if on_host else triton_family(device)


def _host_families(numerics: str) -> list[str]:
    """Native kernels, if they compute, and torch."""
    native = native_kernels() if DTYPES[numerics] == torch.bfloat16 else None
    family = torch.backends.cpu.get_cpu_capability().lower()
    amx = "-amx" if torch.cpu._is_amx_tile_supported() else ""
    torch_name = f"torch{torch.__version__.split('+')[0]}-{family}{amx}"
    return [native.family, torch_name] if native else [torch_name]
