from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

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
    __slots__ = ("epoch", "mode", "gateways", "shards", "transport", "replicas", "max_num_seqs", "max_batched_tokens", "target_epoch", "stage", "last_error", "availability")
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
    def __init__(self, epoch: _Optional[int] = ..., mode: _Optional[str] = ..., gateways: _Optional[_Iterable[str]] = ..., shards: _Optional[_Iterable[str]] = ..., transport: _Optional[str] = ..., replicas: _Optional[int] = ..., max_num_seqs: _Optional[int] = ..., max_batched_tokens: _Optional[int] = ..., target_epoch: _Optional[int] = ..., stage: _Optional[str] = ..., last_error: _Optional[str] = ..., availability: _Optional[str] = ...) -> None: ...

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
