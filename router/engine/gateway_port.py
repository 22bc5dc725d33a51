"""What a frontend needs of gateways, wherever they run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from galerne.adapters import AdapterInfo
from router.engine.request import GenerationRequest, TokenDelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is served, as every gateway of the deployment reports it."""

    name: str
    fingerprint: str
    numerics_profile: str
    max_model_len: int
    vocab_size: int
    num_layers: int
    num_experts: int
    num_experts_per_tok: int
    eos_token_id: int
    takes_images: bool
    image_token_id: int = 10
    patch_size: int = 14
    spatial_merge_size: int = 2
    max_image_size: int = 1540


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLoad:
    """How busy gateways are; sums over several add up field by field."""

    running: int = 0
    waiting: int = 0
    max_waiting: int = 0
    kv_blocks_used: int = 0
    kv_blocks: int = 0
    preemptions: int = 0
    prefix_hit_tokens: int = 0
    prefix_query_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFacts:
    """One process of the deployment; fields as in ``galerne.v1.PartInfo``."""

    id: str
    kind: str
    address: str = ""
    node: str = ""
    pid: int = 0
    restarts: int = 0
    is_live: bool = False
    unready_reason: str = ""
    rss_bytes: int = 0
    experts: int = 0
    resident_bytes: int = 0
    bytes_read: int = 0
    frames: int = 0
    rows: int = 0
    kv_tokens: int = 0
    running: int = 0
    waiting: int = 0
    steps: int = 0
    links: Mapping[str, str] = field(default_factory=dict)
    seconds_by_part: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """The shape that serves now, for people to read."""

    mode: str
    epoch: int
    transport: str = ""
    micro_batches: int = 1
    max_num_seqs: int = 0
    max_batched_tokens: int = 0
    gateways: Sequence[str] = ()
    shards: Sequence[str] = ()
    uptime_s: float = 0.0
    parts: Sequence[PartFacts] = ()
    process_metrics: dict[str, bytes] = field(default_factory=dict)  # process -> Prometheus text


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldStream:
    """A resumable request that a gateway has kept for whoever comes back for it."""

    request: GenerationRequest  # as first submitted, with its hold
    deltas: AsyncGenerator[TokenDelta, None]  # from the first token on, then as of ``submit``


class GatewayPort(Protocol):
    """One gateway, or a pool of them behind a policy."""

    @property
    def model(self) -> ModelFacts:
        """What is served."""
        ...

    @property
    def adapters(self) -> Sequence[AdapterInfo]:
        """Those that requests may name."""
        ...

    async def refresh(self) -> None:
        """Learn at once who serves, and with which adapters.

        Raises:
            GalerneError: Nobody says.
        """
        ...

    def submit(self, request: GenerationRequest) -> AsyncGenerator[TokenDelta, None]:
        """Run a validated request: deltas of all choices, each choice's last with its reason.

        Closing the iterator aborts the request; one with a hold runs on until its grace is over.

        Raises:
            OverloadedError: The queue is full; raised by the first ``anext``.
            InvalidRequestError: The request can never run here; raised by the first ``anext``.
            GalerneError: No gateway could be reached (UNAVAILABLE).
        """
        ...

    async def abort(
        self, request_id: str, choice: int | None = None, owner: bytes | None = None
    ) -> bool:
        """End a request, or one choice of it; whether it was running.

        What it ends gets a last delta with ``FinishReason.ABORT``. With an ``owner`` only if it
        is that one's.
        """
        ...

    async def resume(self, request_id: str, owner: bytes) -> HeldStream | None:
        """Follow a request with a hold again; None if no gateway keeps one for that owner.

        Raises:
            NotServingError: Not all gateways answer, and none of the others keeps it.
        """
        ...

    async def forget(self, request_id: str) -> None:
        """End a request with a hold, and keep nothing of it."""
        ...

    async def load(self) -> GatewayLoad:
        """Load over all gateways."""
        ...

    async def cluster(self) -> ClusterFacts:
        """The shape that serves."""
        ...

    async def unready_reason(self) -> str | None:
        """Why requests could not be served now, or None if they can."""
        ...
