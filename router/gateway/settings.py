"""What a gateway needs to start."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from galerne.adapters import AdapterInfo
from galerne.errors import ConfigError
from galerne.ids import GatewayId
from galerne.internal_tls import InternalTls
from galerne.topology import Topology
from router.engine.speculation.settings import SpeculationSettings
from router.exchange.deadline import ExchangeConfig
from router.model.vision_limits import VisionLimits
from router.tracing.settings import TracingSettings
from shards.kernels.formats import WeightFormat
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
    host: str = "127.0.0.1"
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    vision: VisionLimits = field(default_factory=VisionLimits)
    record: Path | None = None  # where the run is recorded, if it is
    adapters_root: Path | None = None  # adapters lie in directories of it
    adapters: tuple[AdapterInfo, ...] = ()  # to be loaded before it serves
    speculation: SpeculationSettings = field(default_factory=SpeculationSettings)
    tracing: TracingSettings | None = None  # None: nothing is traced
    trusts_network: bool = False  # rows may go to other hosts by NCCL, in plain text

    def __post_init__(self) -> None:
        if self.numerics not in DTYPES:
            raise ConfigError("numerics", self.numerics, f"must be one of {', '.join(DTYPES)}")

    @property
    def dtype(self) -> torch.dtype:
        """Number format of weights, activations and cache."""
        return DTYPES[self.numerics]


def numerics_profile(numerics: str, experts: WeightFormat, dense: WeightFormat) -> str:
    """Name of the arithmetic: formats, kernel families of our own and of torch for the rest."""
    dtype = DTYPES[numerics]
    for name, held in (("experts", experts), ("dense", dense)):
        if held is not WeightFormat.BF16:
            numerics += f"-{name}_{held.label}"
    native = native_kernels() if dtype == torch.bfloat16 else None
    family = torch.backends.cpu.get_cpu_capability().lower()
    amx = "-amx" if torch.cpu._is_amx_tile_supported() else ""
    torch_name = f"torch{torch.__version__.split('+')[0]}-{family}{amx}"
    return f"{numerics}-{native.family}-{torch_name}" if native else f"{numerics}-{torch_name}"
