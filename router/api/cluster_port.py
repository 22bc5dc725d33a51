"""What people who run the cluster may ask of it, wherever the controller runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from galerne.adapters import AdapterInfo
from galerne.errors import InvalidRequestError
from router.api.peers import DrainFacts

UNLOAD_DEADLINE_S, MAX_DEADLINE_S = 30.0, 3600.0  # of requests that use an adapter
_MODES = ("auto", "latency", "throughput")
_RANGE_BY_FIELD = {  # of a question; wide, so that the planner's numbers stay finite
    "requests_per_s": (0, 1e9),
    "prompt_tokens": (1, 1e7),
    "output_tokens": (1, 1e7),
    "arrival_cv2": (0, 1e6),
    "nodes": (0, 4096),
    "ttft_p95_s": (0, 1e6),
    "inter_token_p95_s": (0, 1e6),
    "min_copies": (1, 1024),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyFacts:
    """The topology that serves, and the change that goes on; as ``galerne.v1.TopologyInfo``."""

    epoch: int
    mode: str
    gateways: Sequence[str] = ()
    shards: Sequence[str] = ()
    transport: str = ""
    replicas: int = 1
    max_num_seqs: int = 0
    max_batched_tokens: int = 0
    target_epoch: int = 0
    stage: str = "idle"
    last_error: str = ""
    availability: str = ""
    is_auto: bool = False  # the autoscaler chooses mode and shape


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyWish:
    """What shall be otherwise; as ``galerne.v1.SetTopologyRequest``. Unset: as it is.

    ``mode`` auto goes alone and hands the choice to the autoscaler; any other wish takes it back.
    """

    mode: str | None = None  # auto, latency, throughput
    shards: int | None = None
    gateways: int | None = None
    replicas: int | None = None
    transport: str | None = None
    micro_batches: int | None = None
    max_num_seqs: int | None = None
    max_batched_tokens: int | None = None
    replace_shard: str | None = None
    rebalance: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFacts:
    """One thing that happened; as ``galerne.v1.ClusterEvent``."""

    number: int
    time_s: float
    kind: str
    part: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectivesFacts:
    """What a deployment promises; as ``galerne.v1.Objectives``. None: nothing of that kind."""

    ttft_p95_s: float | None = None
    inter_token_p95_s: float | None = None
    max_nodes: int | None = None
    min_copies: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedLoad:
    """What was seen of the load lately; as ``galerne.v1.ObservedLoad``."""

    requests_per_s: float
    upper_requests_per_s: float  # what it may really be
    prompt_tokens: float  # mean, as the next two
    output_tokens: float
    arrival_cv2: float  # of the time between requests; 1: Poisson
    waiting: int
    running: int
    ttft_p95_s: float | None = None  # None: nothing was answered
    inter_token_p95_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLoadFacts:
    """What one shard has computed. A row is one token at one of its experts."""

    id: str
    rows: int | None  # since it started; None: it gave no answer
    rows_lately: int  # in the window
    busy: float  # part of the time between the last two looks in which it computed


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLoadFacts:
    """How the load is spread. Rows are counted where shards hold the experts."""

    window_s: float  # rows lately: at most so long ago
    rows: Sequence[Sequence[int]]  # [layer][expert], in the window
    balancedness: float  # mean over layers of mean shard load / largest; 1 is even
    rows_total: Sequence[Sequence[int]] = ()  # [layer][expert], since the shards have started
    shards: Sequence[ShardLoadFacts] = ()  # none where the gateways hold the experts


# What tables say below names of candidates.
NAME_LEGEND = (
    "names: mode · link, shards×copies of an expert · gateways · sequences×tokens of a step · "
    "micro-batches · machines"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateFacts:
    """A topology that could serve, and what it would give; as ``galerne.v1.Candidate``.

    Times are infinite where the load is too much for it.
    """

    name: str  # short; see ``NAME_LEGEND``
    ttft_p95_s: float
    inter_token_p95_s: float
    completion_s: float  # of a request of mean length
    max_requests_per_s: float
    utilisation: float  # load over what the busiest gateway could carry
    nodes: int
    cost: float  # what they are ranked by
    reason: str  # why it was not chosen; empty: nothing speaks against it
    is_chosen: bool
    is_current: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeFacts:
    """What came of a decision; as ``galerne.v1.DecisionOutcome``."""

    seconds: float  # until the next change
    error_by_quantity: Mapping[str, float]  # predicted / measured - 1
    best: str  # candidate's name, by replay of what really arrived
    regret: float  # cost of the choice over the best one's, less 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionFacts:
    """One decision of the autoscaler; as ``galerne.v1.Decision``."""

    number: int  # 0: the latest one, which holds; those are not kept
    time_s: float  # since 1970
    action: str  # hold, change, give_up, to_zero
    reason: str
    binding: str  # the constraint that decided
    is_urgent: bool
    current: str  # a candidate's name, as target; "zero" without any
    target: str
    text: str  # all of it, for a terminal
    json: str  # all of it; empty in lists
    candidates: Sequence[CandidateFacts] = ()  # the best few and both topologies
    num_candidates: int = 0  # that were compared
    sensitivity: str = ""
    calibration_error: float | None = None  # median of earlier predictions; None: none was measured
    load: ObservedLoad | None = None
    outcome: OutcomeFacts | None = None  # None: it is not known yet


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerFacts:
    """What the autoscaler sees and wants; as ``galerne.v1.ScalerInfo``."""

    mode: str  # auto, latency, throughput: as set
    objectives: ObjectivesFacts = field(default_factory=ObjectivesFacts)
    decision: DecisionFacts | None = None  # the latest, or that which was asked for
    calibration_error: float | None = None  # median relative error so far
    turned_s_ago: float | None = None  # since the last turn of its loop; None: it has made none
    last_number: int = 0  # of the decisions that are kept
    load: ObservedLoad | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIfQuestion:
    """A load and limits that are not there; as ``galerne.v1.WhatIfRequest``.

    None: as they are at the deployment. An objective of 0 seconds: none.

    Raises:
        InvalidRequestError: A value is out of range; names the field.
    """

    requests_per_s: float | None = None
    prompt_tokens: float | None = None
    output_tokens: float | None = None
    arrival_cv2: float | None = None
    mode: str | None = None
    nodes: int = 0  # more machines for shards than there are
    ttft_p95_s: float | None = None
    inter_token_p95_s: float | None = None
    min_copies: int | None = None

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGE_BY_FIELD.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:  # NaN is in no range
                raise InvalidRequestError(name, f"must be in [{least}, {most:g}], got {value:g}")
        if self.mode is not None and self.mode not in _MODES:
            problem = f"must be {', '.join(_MODES)}, got {self.mode[:50]!r}"
            raise InvalidRequestError("mode", problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIfFacts:
    """The planner's answer; as ``galerne.v1.WhatIfAnswer``."""

    text: str  # the choice and its sensitivity in words
    json: str  # all candidates with all predictions
    chosen: str  # in words; empty: every candidate breaks a limit
    candidates: Sequence[CandidateFacts] = ()  # the best few, best first
    num_candidates: int = 0


def check_deadline(deadline_s: float) -> None:
    """Refuse what is no number of seconds up to an hour.

    Raises:
        InvalidRequestError: Names ``deadline_s``.
    """
    if not 0 <= deadline_s <= MAX_DEADLINE_S:  # NaN is in no range
        problem = f"must be in [0, {MAX_DEADLINE_S:g}] seconds, got {deadline_s:g}"
        raise InvalidRequestError("deadline_s", problem)


class ClusterPort(Protocol):
    """The controller, or what stands for it. All raise NotServingError while it is away."""

    async def topology(self) -> TopologyFacts:
        """What serves."""
        ...

    async def set_topology(self, wish: TopologyWish) -> TopologyFacts:
        """Begin a change.

        Raises:
            GalerneError: It cannot begin; says why.
        """
        ...

    async def adapters(self) -> Sequence[AdapterInfo]:
        """LoRA adapters that are loaded."""
        ...

    async def load_adapter(self, name: str, directory: str) -> AdapterInfo:
        """Load one into every part; ``directory`` empty: as the name.

        Raises:
            GalerneError: A name cannot be used, or the adapter; says why.
        """
        ...

    async def unload_adapter(self, name: str, deadline_s: float) -> AdapterInfo:
        """Unload one when no request uses it.

        Raises:
            GalerneError: There is none, or some still use it at the deadline; then it stays.
        """
        ...

    async def set_log_level(self, level: str, part: str) -> Sequence[str]:
        """Have a part log so from now on; empty: all. Who does.

        Raises:
            InvalidRequestError: There is no such part; names ``part``.
        """
        ...

    async def drain(self, order: str, deadline_s: float) -> DrainFacts:
        """Have every frontend take no more requests; how far that has come.

        To be asked again, with the same ``order``, which is given once.
        """
        ...

    async def events(self, after: int) -> Sequence[EventFacts]:
        """What has happened since the event of that number."""
        ...

    async def expert_load(self) -> ExpertLoadFacts:
        """What experts and shards have had to compute."""
        ...

    async def explain(self, number: int | None = None) -> ScalerFacts:
        """What the autoscaler sees, wants and has decided, last or by number.

        Raises:
            GalerneError: There is no autoscaler, or no such decision; says why.
        """
        ...

    async def decisions(self, after: int) -> Sequence[DecisionFacts]:
        """Decisions with a higher number, oldest first; some of them if they are many.

        Raises:
            GalerneError: There is no autoscaler; says why.
        """
        ...

    async def what_if(self, question: WhatIfQuestion) -> WhatIfFacts:
        """What the planner would choose, with the calibration of the running cluster.

        Raises:
            GalerneError: There is no autoscaler, or a field of the question is wrong.
        """
        ...
