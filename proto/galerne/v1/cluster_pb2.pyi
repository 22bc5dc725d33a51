from galerne.v1 import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SetLogLevelRequest(_message.Message):
    __slots__ = ("level", "part")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    level: str
    part: str
    def __init__(self, level: _Optional[str] = ..., part: _Optional[str] = ...) -> None: ...

class LogLevelSet(_message.Message):
    __slots__ = ("parts",)
    PARTS_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, parts: _Optional[_Iterable[str]] = ...) -> None: ...

class LoadLoraRequest(_message.Message):
    __slots__ = ("name", "directory")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    name: str
    directory: str
    def __init__(self, name: _Optional[str] = ..., directory: _Optional[str] = ...) -> None: ...

class UnloadLoraRequest(_message.Message):
    __slots__ = ("name", "deadline_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    deadline_s: float
    def __init__(self, name: _Optional[str] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class ListAdaptersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AdapterList(_message.Message):
    __slots__ = ("adapters",)
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedCompositeFieldContainer[_inference_pb2.AdapterInfo]
    def __init__(self, adapters: _Optional[_Iterable[_Union[_inference_pb2.AdapterInfo, _Mapping]]] = ...) -> None: ...

class GetTopologyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SetTopologyRequest(_message.Message):
    __slots__ = ("mode", "shards", "gateways", "replicas", "transport", "max_num_seqs", "max_batched_tokens", "replace_shard", "rebalance", "micro_batches")
    MODE_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    GATEWAYS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    MAX_NUM_SEQS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REPLACE_SHARD_FIELD_NUMBER: _ClassVar[int]
    REBALANCE_FIELD_NUMBER: _ClassVar[int]
    MICRO_BATCHES_FIELD_NUMBER: _ClassVar[int]
    mode: str
    shards: int
    gateways: int
    replicas: int
    transport: str
    max_num_seqs: int
    max_batched_tokens: int
    replace_shard: str
    rebalance: bool
    micro_batches: int
    def __init__(self, mode: _Optional[str] = ..., shards: _Optional[int] = ..., gateways: _Optional[int] = ..., replicas: _Optional[int] = ..., transport: _Optional[str] = ..., max_num_seqs: _Optional[int] = ..., max_batched_tokens: _Optional[int] = ..., replace_shard: _Optional[str] = ..., rebalance: bool = ..., micro_batches: _Optional[int] = ...) -> None: ...

class TopologyInfo(_message.Message):
    __slots__ = ("epoch", "mode", "gateways", "shards", "transport", "replicas", "max_num_seqs", "max_batched_tokens", "target_epoch", "stage", "last_error", "availability", "is_auto")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    GATEWAYS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    MAX_NUM_SEQS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TARGET_EPOCH_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    AVAILABILITY_FIELD_NUMBER: _ClassVar[int]
    IS_AUTO_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    mode: str
    gateways: _containers.RepeatedScalarFieldContainer[str]
    shards: _containers.RepeatedScalarFieldContainer[str]
    transport: str
    replicas: int
    max_num_seqs: int
    max_batched_tokens: int
    target_epoch: int
    stage: str
    last_error: str
    availability: str
    is_auto: bool
    def __init__(self, epoch: _Optional[int] = ..., mode: _Optional[str] = ..., gateways: _Optional[_Iterable[str]] = ..., shards: _Optional[_Iterable[str]] = ..., transport: _Optional[str] = ..., replicas: _Optional[int] = ..., max_num_seqs: _Optional[int] = ..., max_batched_tokens: _Optional[int] = ..., target_epoch: _Optional[int] = ..., stage: _Optional[str] = ..., last_error: _Optional[str] = ..., availability: _Optional[str] = ..., is_auto: bool = ...) -> None: ...

class WatchEventsRequest(_message.Message):
    __slots__ = ("after",)
    AFTER_FIELD_NUMBER: _ClassVar[int]
    after: int
    def __init__(self, after: _Optional[int] = ...) -> None: ...

class ClusterEvent(_message.Message):
    __slots__ = ("number", "time_s", "kind", "part", "text")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    number: int
    time_s: float
    kind: str
    part: str
    text: str
    def __init__(self, number: _Optional[int] = ..., time_s: _Optional[float] = ..., kind: _Optional[str] = ..., part: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("deadline_s",)
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    deadline_s: float
    def __init__(self, deadline_s: _Optional[float] = ...) -> None: ...

class DrainProgress(_message.Message):
    __slots__ = ("running", "seconds_left", "aborted")
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    ABORTED_FIELD_NUMBER: _ClassVar[int]
    running: int
    seconds_left: float
    aborted: int
    def __init__(self, running: _Optional[int] = ..., seconds_left: _Optional[float] = ..., aborted: _Optional[int] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class ScalerInfo(_message.Message):
    __slots__ = ("mode", "objectives", "decision", "calibration_error", "turned_s_ago", "load", "last_number")
    MODE_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVES_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_ERROR_FIELD_NUMBER: _ClassVar[int]
    TURNED_S_AGO_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    LAST_NUMBER_FIELD_NUMBER: _ClassVar[int]
    mode: str
    objectives: Objectives
    decision: Decision
    calibration_error: float
    turned_s_ago: float
    load: ObservedLoad
    last_number: int
    def __init__(self, mode: _Optional[str] = ..., objectives: _Optional[_Union[Objectives, _Mapping]] = ..., decision: _Optional[_Union[Decision, _Mapping]] = ..., calibration_error: _Optional[float] = ..., turned_s_ago: _Optional[float] = ..., load: _Optional[_Union[ObservedLoad, _Mapping]] = ..., last_number: _Optional[int] = ...) -> None: ...

class Objectives(_message.Message):
    __slots__ = ("ttft_p95_s", "inter_token_p95_s", "max_nodes", "min_copies")
    TTFT_P95_S_FIELD_NUMBER: _ClassVar[int]
    INTER_TOKEN_P95_S_FIELD_NUMBER: _ClassVar[int]
    MAX_NODES_FIELD_NUMBER: _ClassVar[int]
    MIN_COPIES_FIELD_NUMBER: _ClassVar[int]
    ttft_p95_s: float
    inter_token_p95_s: float
    max_nodes: int
    min_copies: int
    def __init__(self, ttft_p95_s: _Optional[float] = ..., inter_token_p95_s: _Optional[float] = ..., max_nodes: _Optional[int] = ..., min_copies: _Optional[int] = ...) -> None: ...

class ObservedLoad(_message.Message):
    __slots__ = ("requests_per_s", "upper_requests_per_s", "prompt_tokens", "output_tokens", "arrival_cv2", "waiting", "running", "ttft_p95_s", "inter_token_p95_s")
    REQUESTS_PER_S_FIELD_NUMBER: _ClassVar[int]
    UPPER_REQUESTS_PER_S_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_CV2_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    TTFT_P95_S_FIELD_NUMBER: _ClassVar[int]
    INTER_TOKEN_P95_S_FIELD_NUMBER: _ClassVar[int]
    requests_per_s: float
    upper_requests_per_s: float
    prompt_tokens: float
    output_tokens: float
    arrival_cv2: float
    waiting: int
    running: int
    ttft_p95_s: float
    inter_token_p95_s: float
    def __init__(self, requests_per_s: _Optional[float] = ..., upper_requests_per_s: _Optional[float] = ..., prompt_tokens: _Optional[float] = ..., output_tokens: _Optional[float] = ..., arrival_cv2: _Optional[float] = ..., waiting: _Optional[int] = ..., running: _Optional[int] = ..., ttft_p95_s: _Optional[float] = ..., inter_token_p95_s: _Optional[float] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("name", "ttft_p95_s", "inter_token_p95_s", "completion_s", "max_requests_per_s", "nodes", "cost", "reason", "is_chosen", "is_current", "utilisation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TTFT_P95_S_FIELD_NUMBER: _ClassVar[int]
    INTER_TOKEN_P95_S_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_S_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUESTS_PER_S_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    IS_CHOSEN_FIELD_NUMBER: _ClassVar[int]
    IS_CURRENT_FIELD_NUMBER: _ClassVar[int]
    UTILISATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    ttft_p95_s: float
    inter_token_p95_s: float
    completion_s: float
    max_requests_per_s: float
    nodes: int
    cost: float
    reason: str
    is_chosen: bool
    is_current: bool
    utilisation: float
    def __init__(self, name: _Optional[str] = ..., ttft_p95_s: _Optional[float] = ..., inter_token_p95_s: _Optional[float] = ..., completion_s: _Optional[float] = ..., max_requests_per_s: _Optional[float] = ..., nodes: _Optional[int] = ..., cost: _Optional[float] = ..., reason: _Optional[str] = ..., is_chosen: bool = ..., is_current: bool = ..., utilisation: _Optional[float] = ...) -> None: ...

class DecisionOutcome(_message.Message):
    __slots__ = ("seconds", "error_by_quantity", "best", "regret")
    class ErrorByQuantityEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    ERROR_BY_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    REGRET_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    error_by_quantity: _containers.ScalarMap[str, float]
    best: str
    regret: float
    def __init__(self, seconds: _Optional[float] = ..., error_by_quantity: _Optional[_Mapping[str, float]] = ..., best: _Optional[str] = ..., regret: _Optional[float] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("number", "time_s", "action", "reason", "binding", "is_urgent", "current", "target", "candidates", "num_candidates", "sensitivity", "calibration_error", "load", "outcome", "text", "json")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    IS_URGENT_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    NUM_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    SENSITIVITY_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_ERROR_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    number: int
    time_s: float
    action: str
    reason: str
    binding: str
    is_urgent: bool
    current: str
    target: str
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    num_candidates: int
    sensitivity: str
    calibration_error: float
    load: ObservedLoad
    outcome: DecisionOutcome
    text: str
    json: str
    def __init__(self, number: _Optional[int] = ..., time_s: _Optional[float] = ..., action: _Optional[str] = ..., reason: _Optional[str] = ..., binding: _Optional[str] = ..., is_urgent: bool = ..., current: _Optional[str] = ..., target: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., num_candidates: _Optional[int] = ..., sensitivity: _Optional[str] = ..., calibration_error: _Optional[float] = ..., load: _Optional[_Union[ObservedLoad, _Mapping]] = ..., outcome: _Optional[_Union[DecisionOutcome, _Mapping]] = ..., text: _Optional[str] = ..., json: _Optional[str] = ...) -> None: ...

class ListDecisionsRequest(_message.Message):
    __slots__ = ("after",)
    AFTER_FIELD_NUMBER: _ClassVar[int]
    after: int
    def __init__(self, after: _Optional[int] = ...) -> None: ...

class DecisionList(_message.Message):
    __slots__ = ("decisions",)
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    decisions: _containers.RepeatedCompositeFieldContainer[Decision]
    def __init__(self, decisions: _Optional[_Iterable[_Union[Decision, _Mapping]]] = ...) -> None: ...

class WhatIfRequest(_message.Message):
    __slots__ = ("requests_per_s", "prompt_tokens", "output_tokens", "arrival_cv2", "mode", "nodes", "ttft_p95_s", "inter_token_p95_s", "min_copies")
    REQUESTS_PER_S_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_CV2_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    TTFT_P95_S_FIELD_NUMBER: _ClassVar[int]
    INTER_TOKEN_P95_S_FIELD_NUMBER: _ClassVar[int]
    MIN_COPIES_FIELD_NUMBER: _ClassVar[int]
    requests_per_s: float
    prompt_tokens: float
    output_tokens: float
    arrival_cv2: float
    mode: str
    nodes: int
    ttft_p95_s: float
    inter_token_p95_s: float
    min_copies: int
    def __init__(self, requests_per_s: _Optional[float] = ..., prompt_tokens: _Optional[float] = ..., output_tokens: _Optional[float] = ..., arrival_cv2: _Optional[float] = ..., mode: _Optional[str] = ..., nodes: _Optional[int] = ..., ttft_p95_s: _Optional[float] = ..., inter_token_p95_s: _Optional[float] = ..., min_copies: _Optional[int] = ...) -> None: ...

class WhatIfAnswer(_message.Message):
    __slots__ = ("chosen", "candidates", "num_candidates", "text", "json")
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    NUM_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    chosen: str
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    num_candidates: int
    text: str
    json: str
    def __init__(self, chosen: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., num_candidates: _Optional[int] = ..., text: _Optional[str] = ..., json: _Optional[str] = ...) -> None: ...
